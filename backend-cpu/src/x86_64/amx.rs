//! AMX: `tdpbssd` multiplies 16 rows x 64 inputs by 64 inputs x 16 outputs of signed bytes. Everything but products of digits is AVX-512's.
//!
//! Instructions are written out because the intrinsics are not stable. Tile registers are outside what the compiler knows or uses. A
//! thread configures its tiles when a task begins and releases them when it ends, so that nobody else on it has to know of them; both take
//! 0.12 to 0.19 us on a Xeon of family 6, model 207, against 2 us for 32 rows, 64 outputs and 2048 inputs.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use speckv_predictor::backend::{Rotary, Silu};
use speckv_predictor::fixed::Scale;

use crate::kernel::{Kernel, Line8};
use crate::path::x86::HasAmx;
use crate::vector::{Columns, Steps, operations};
use crate::x86_64::avx512vnni::Wide;
use crate::x86_64::{packing, special512, vectorised};

/// int8 digits by `tdpbssd`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles(pub HasAmx);

operations!(vectorised, { Vector, Tiles, "avx2,avx512f,avx512bw,avx512dq,avx512vl" });
special512!(Tiles, |p: Tiles| Wide(p.0.avx512vnni()));

/// Blocks of 16 outputs in a panel.
const LINES: usize = 4;
/// Inputs of one step: a row of a left tile, 16 line rows of a right one.
const STEP: usize = 64;
/// Rows of a tile.
const ROWS: usize = 16;

impl Kernel for Tiles {
    type A = i8;
    type Line = Line8;
    const MR: usize = 2 * ROWS;
    const LINES: usize = LINES;
    const OFFSET: i32 = 0;
    const STEP: usize = STEP;
    const ROWS: usize = ROWS;
    const PART: usize = 32;
    const BLOCK_BYTES: usize = 640 << 10;
    const BLOCK_ROWS: usize = 288;
    const QUERIES: usize = 32;

    packing!(i8, "avx512f,avx512bw,avx512vl");

    /// Configures eight tiles of 16 rows of 64 bytes.
    #[inline]
    fn begin(self) {
        #[repr(align(64))]
        struct Config(#[expect(dead_code, reason = "read by the CPU")] [u8; 64]);
        static CONFIG: Config = {
            let mut config = [0; 64];
            config[0] = 1;
            let mut tile = 0;
            while tile < 8 {
                (config[16 + 2 * tile], config[48 + tile]) = (64, ROWS as u8);
                tile += 1;
            }
            Config(config)
        };
        // SAFETY: `self` proves AMX and the kernel's permission; the operand is 64 bytes that describe tiles of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(readonly, nostack, preserves_flags)) };
    }

    #[inline]
    fn end(self) {
        // SAFETY: `self` proves AMX; no tile is in use any more.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }

    #[inline]
    fn tile(self, a: &[i8], stride: usize, rows: usize, w: &[Line8], acc: &mut [i32]) {
        self.tiles(a, stride, rows, w, acc);
    }

    fn tiles(self, a: &[i8], stride: usize, rows: usize, w: &[Line8], acc: &mut [i32]) {
        let steps = w.len() / (LINES * ROWS);
        assert!(w.len() == steps * LINES * ROWS && rows.is_multiple_of(ROWS) && acc.len() >= rows * Self::NR);
        assert!(rows == 0 || a.len() >= (rows - 1) * stride + steps * STEP);
        if steps == 0 {
            return;
        }
        for (r, half) in (0..rows).step_by(Self::MR).flat_map(|r| [(r, 0), (r, 2)]) {
            // SAFETY: `self` proves AMX and `begin` has configured tiles. Rows r.. (32, or the last 16) read `steps` steps of digits and
            // update 32 of their 64 accumulators; the lines are those of one half of the panel's outputs. All lie within what is asserted.
            unsafe {
                let (a, acc) = (a.as_ptr().add(r * stride), acc.as_mut_ptr().add(r * Self::NR + 16 * half));
                let w = w.as_ptr().add(half * ROWS);
                if rows - r > ROWS {
                    square(a, stride, w, steps, acc);
                } else {
                    flat(a, stride, w, steps, acc);
                }
            }
        }
    }
}

/// Bytes from one row of accumulators to the next.
const ACC: usize = 4 * <Tiles as Kernel>::NR;
/// Bytes from one step's lines to the next's.
const NEXT: usize = 64 * LINES * ROWS;

/// `steps` steps of 32 rows x 32 outputs: 2 x 2 tiles of accumulators.
///
/// # Safety
/// Tiles are configured; `steps > 0`. For r < 32, `a + r * stride` is valid for reads of `steps * STEP` bytes and `acc + r * NR` for reads
/// and writes of 32 values; `w` is valid for reads of the first half of the lines of each step.
#[inline(always)]
unsafe fn square(a: *const i8, stride: usize, w: *const Line8, steps: usize, acc: *mut i32) {
    // SAFETY: the caller's promise; loads and stores of tiles touch 16 rows of 64 bytes.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + 1*{acc}]",
            "tileloadd tmm1, [{c} + 1*{acc} + 64]",
            "tileloadd tmm2, [{d} + 1*{acc}]",
            "tileloadd tmm3, [{d} + 1*{acc} + 64]",
            "2:",
            "tileloadd tmm6, [{w} + 1*{line}]",
            "tileloadd tmm4, [{a} + 1*{stride}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w} + 1*{line} + 1024]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{b} + 1*{stride}]",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {b}, 64",
            "add {w}, {next}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + 1*{acc}], tmm0",
            "tilestored [{c} + 1*{acc} + 64], tmm1",
            "tilestored [{d} + 1*{acc}], tmm2",
            "tilestored [{d} + 1*{acc} + 64], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) a.add(ROWS * stride) => _,
            w = inout(reg) w => _,
            steps = inout(reg) steps => _,
            c = in(reg) acc,
            d = in(reg) acc.add(ROWS * Tiles::NR),
            stride = in(reg) stride,
            line = in(reg) 64usize,
            acc = in(reg) ACC,
            next = const NEXT,
            options(nostack),
        );
    }
}

/// `steps` steps of 16 rows x 32 outputs.
///
/// # Safety
/// That of [`square`], for 16 rows.
#[inline(always)]
unsafe fn flat(a: *const i8, stride: usize, w: *const Line8, steps: usize, acc: *mut i32) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + 1*{acc}]",
            "tileloadd tmm1, [{c} + 1*{acc} + 64]",
            "2:",
            "tileloadd tmm6, [{w} + 1*{line}]",
            "tileloadd tmm4, [{a} + 1*{stride}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w} + 1*{line} + 1024]",
            "tdpbssd tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {w}, {next}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + 1*{acc}], tmm0",
            "tilestored [{c} + 1*{acc} + 64], tmm1",
            a = inout(reg) a => _,
            w = inout(reg) w => _,
            steps = inout(reg) steps => _,
            c = in(reg) acc,
            stride = in(reg) stride,
            line = in(reg) 64usize,
            acc = in(reg) ACC,
            next = const NEXT,
            options(nostack),
        );
    }
}

/// What AMX needs beside AVX-512 and is not there; empty if this process can use it from now on.
pub(crate) fn missing() -> Vec<&'static str> {
    // Only asked for beside AVX-512, which leaf 7 reports too: the CPU has that leaf if anything else is there.
    let (features, system) = (__cpuid_count(7, 0).edx, __cpuid(1).ecx);
    let mut missing = Vec::new();
    for (bit, name) in [(24, "amx-tile"), (25, "amx-int8")] {
        if features >> bit & 1 == 0 {
            missing.push(name);
        }
    }
    // Bits of XCR0: configurations and data of tiles, which the operating system saves.
    const SAVED: u64 = 3 << 17;
    if system >> 27 & 1 == 0 || enabled() & SAVED != SAVED {
        missing.push("amx state of the operating system");
    }
    if missing.is_empty() && !permitted() {
        missing.push("permission of the kernel");
    }
    missing
}

/// XCR0, of a CPU whose operating system has enabled `xgetbv`.
fn enabled() -> u64 {
    #[target_feature(enable = "xsave")]
    fn read() -> u64 {
        // SAFETY: the function below has seen OSXSAVE; register 0 exists wherever the instruction does.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: as above.
    unsafe { read() }
}

/// Whether the kernel lets this process use tiles: Linux must be asked, once, before the first use of any.
fn permitted() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    #[cfg(target_os = "linux")]
    let ask = || {
        const ARCH_PRCTL: u64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XFEATURE_XTILEDATA: u64 = 18;
        let answer: i64;
        // SAFETY: a system call that takes two numbers and changes nothing but what the process may use; it overwrites rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => answer,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        answer == 0
    };
    // What other systems ask for is not written yet.
    #[cfg(not(target_os = "linux"))]
    let ask = || false;
    *ANSWER.get_or_init(ask)
}
