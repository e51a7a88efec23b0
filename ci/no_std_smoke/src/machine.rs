//! What an operating system would bring: a start, an end, an allocator, and what happens on a panic.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

const HEAP: usize = 256 << 10;

#[repr(align(16))]
struct Heap(core::cell::UnsafeCell<[u8; HEAP]>);

// SAFETY: its bytes are only handed out, each once, by `Bump`.
unsafe impl Sync for Heap {}

static MEMORY: Heap = Heap(core::cell::UnsafeCell::new([0; HEAP]));

/// Hands out the heap from its start on and takes nothing back.
struct Bump(AtomicUsize);

// SAFETY: a block lies in the heap, is aligned as asked (up to the heap's own alignment) and is handed out once.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // One core and no interrupts: load and store cannot be torn apart.
        let at = self.0.load(Ordering::Relaxed).next_multiple_of(layout.align());
        match at.checked_add(layout.size()) {
            Some(end) if end <= HEAP && layout.align() <= 16 => {
                self.0.store(end, Ordering::Relaxed);
                MEMORY.0.get().cast::<u8>().wrapping_add(at)
            }
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump(AtomicUsize::new(0));

unsafe extern "C" {
    static mut _bss: u32;
    static mut _bss_end: u32;
}

/// Where the machine starts.
#[unsafe(no_mangle)]
extern "C" fn reset() -> ! {
    let mut word = &raw mut _bss;
    while word < &raw mut _bss_end {
        // SAFETY: the linker script places both around zeroed statics, aligned; nothing has used them yet.
        unsafe { word.write_volatile(0) };
        word = word.wrapping_add(1);
    }
    // The floating-point unit is off after reset, and the compiler may keep integers in its registers.
    let coprocessors = ptr::without_provenance_mut::<u32>(0xE000_ED88);
    // SAFETY: the register that says who may use coprocessors, there on every machine that runs this.
    unsafe { coprocessors.write_volatile(coprocessors.read_volatile() | 0xF << 20) };
    exit(crate::main())
}

/// Ends with a code that the debugger, or the emulator, hands on (semihosting, SYS_EXIT_EXTENDED with ADP_Stopped_ApplicationExit).
fn exit(code: u32) -> ! {
    let block: [u32; 2] = [0x20026, code];
    // SAFETY: the call reads the block and does not return.
    unsafe { asm!("bkpt 0xAB", in("r0") 0x20, in("r1") block.as_ptr(), options(noreturn)) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(2)
}
