//! The driver's entry points, under their own names, each looked up in the driver's library when first called.
//!
//! `cust` links against `libcuda`, which only machines with a driver have. The linker finds these functions instead, so that one program builds and
//! starts everywhere; without a driver each of them answers [`NO_DRIVER`].

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// CUDA_ERROR_SHARED_OBJECT_INIT_FAILED: there is no driver, or it is too old to have the function.
pub(crate) const NO_DRIVER: c_uint = 303;
/// CUDA_ERROR_UNKNOWN.
const UNKNOWN: c_uint = 999;

fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let open = || {
        // SAFETY: the driver's library runs nothing on loading that could break this program's promises.
        ["libcuda.so.1", "libcuda.so"].into_iter().find_map(|name| unsafe { Library::new(name) }.ok())
    };
    LIBRARY.get_or_init(open).as_ref()
}

/// Whether this machine has the driver's library.
pub(crate) fn present() -> bool {
    library().is_some()
}

/// The address of a function, 0 if there is none.
fn address(slot: &OnceLock<usize>, name: &str) -> usize {
    *slot.get_or_init(|| {
        // SAFETY: only the address is taken; callers give it the type that the driver documents.
        let found = library().and_then(|lib| unsafe { lib.get::<*const c_void>(name.as_bytes()) }.ok());
        found.map_or(0, |symbol| *symbol as usize)
    })
}

/// Codes that `cust_raw`'s enumeration, of CUDA 11.4, does not have would be invalid values of it.
fn known(code: c_uint) -> c_uint {
    match code {
        0..=8 | 34 | 100..=102 | 200..=202 | 205..=224 | 300..=304 | 400 | 401 | 500 | 600 | 700..=705 => {
            code
        }
        708..=720 | 800..=809 | 900..=911 => code,
        _ => UNKNOWN,
    }
}

macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $type:ty),*);)*) => {$(
        /// The driver's function of this name.
        ///
        /// # Safety
        /// As the driver documents.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> c_uint {
            static SLOT: OnceLock<usize> = OnceLock::new();
            match address(&SLOT, stringify!($name)) {
                0 => NO_DRIVER,
                // SAFETY: the driver's function of this name has this type (CUDA driver API, unchanged since 11.4); the caller keeps its contract.
                at => known(unsafe {
                    std::mem::transmute::<usize, unsafe extern "C" fn($($type),*) -> c_uint>(at)($($arg),*)
                }),
            }
        }
    )*};
}

type Pointer = *mut c_void;

forward! {
    fn cuInit(flags: c_uint);
    fn cuDriverGetVersion(version: *mut c_int);
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int);
    fn cuDeviceGetCount(count: *mut c_int);
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int);
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int);
    fn cuDeviceGetDefaultMemPool(pool: *mut Pointer, device: c_int);
    fn cuDevicePrimaryCtxRetain(context: *mut Pointer, device: c_int);
    fn cuDevicePrimaryCtxRelease_v2(device: c_int);
    fn cuDevicePrimaryCtxReset_v2(device: c_int);
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint);
    fn cuCtxSetCurrent(context: Pointer);
    fn cuCtxGetCurrent(context: *mut Pointer);
    fn cuModuleLoadDataEx(module: *mut Pointer, image: *const c_void, count: c_uint, options: *mut c_uint, values: *mut Pointer);
    fn cuModuleLoadData(module: *mut Pointer, image: *const c_void);
    fn cuModuleLoadFatBinary(module: *mut Pointer, image: *const c_void);
    fn cuModuleLoad(module: *mut Pointer, name: *const c_char);
    fn cuModuleUnload(module: Pointer);
    fn cuModuleGetFunction(function: *mut Pointer, module: Pointer, name: *const c_char);
    fn cuFuncSetAttribute(function: Pointer, attribute: c_uint, value: c_int);
    fn cuStreamCreateWithPriority(stream: *mut Pointer, flags: c_uint, priority: c_int);
    fn cuStreamDestroy_v2(stream: Pointer);
    fn cuStreamSynchronize(stream: Pointer);
    fn cuMemAllocAsync(pointer: *mut u64, bytes: usize, stream: Pointer);
    fn cuMemFreeAsync(pointer: u64, stream: Pointer);
    fn cuMemHostAlloc(pointer: *mut Pointer, bytes: usize, flags: c_uint);
    fn cuMemFreeHost(pointer: Pointer);
    fn cuMemPoolSetAttribute(pool: Pointer, attribute: c_uint, value: Pointer);
    fn cuMemPoolGetAttribute(pool: Pointer, attribute: c_uint, value: Pointer);
    fn cuEventCreate(event: *mut Pointer, flags: c_uint);
    fn cuEventRecord(event: Pointer, stream: Pointer);
    fn cuEventSynchronize(event: Pointer);
    fn cuEventDestroy_v2(event: Pointer);
    fn cuStreamWaitEvent(stream: Pointer, event: Pointer, flags: c_uint);
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Pointer);
    fn cuMemcpyDtoHAsync_v2(to: Pointer, from: u64, bytes: usize, stream: Pointer);
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Pointer);
    fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: Pointer);
    fn cuLaunchKernel(function: Pointer, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint, stream: Pointer, params: *mut Pointer, extra: *mut Pointer);
    fn cuGetErrorName(code: c_uint, text: *mut *const c_char);
}

/// The driver's text for a code. Without a driver too there is one: `cust` panics where there is none.
///
/// # Safety
/// `text` may be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn cuGetErrorString(code: c_uint, text: *mut *const c_char) -> c_uint {
    static SLOT: OnceLock<usize> = OnceLock::new();
    let at = address(&SLOT, "cuGetErrorString");
    if at != 0 {
        // SAFETY: the driver's function of this name has this type; the caller keeps its contract.
        let function = unsafe {
            std::mem::transmute::<usize, unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint>(at)
        };
        // SAFETY: as above.
        if unsafe { function(code, text) } == 0 {
            return 0;
        }
    }
    // SAFETY: the caller lets `text` be written.
    unsafe { *text = c"no text for this code".as_ptr() };
    0
}
