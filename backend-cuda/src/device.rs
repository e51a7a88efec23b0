//! One device and one stream of work on it: memory, copies, launches. The first failure is kept and told when results are asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;

use cust::context::Context;
use cust::device::DeviceAttribute;
use cust::module::Module;
use cust::sys;

use crate::driver;
use crate::error::CudaError;
use crate::kernels::{HOPPER, Kernel, MODULES};
use crate::staging::{STAGE, Staging};

/// Most static shared memory of any kernel that has dynamic shared memory too.
const STATIC: u32 = 4 << 10;
/// Least driver that has stream-ordered memory.
const DRIVER: i32 = 11020;

pub(crate) struct Device {
    // Dropped in this order: the context last.
    functions: HashMap<&'static str, sys::CUfunction>,
    _modules: Vec<Module>,
    stream: sys::CUstream,
    pub(crate) staging: RefCell<Option<Staging>>,
    pub(crate) name: String,
    pub(crate) multiprocessors: u32,
    /// Most shared memory of a block, static part included.
    shared: u32,
    /// Compute capability 9.0: kernels for that architecture alone are there.
    pub(crate) hopper: bool,
    failure: RefCell<Option<CudaError>>,
    /// The device's default one.
    pool: sys::CUmemoryPool,
    context: Context,
}

/// What a code of CUDA's means for `operation`.
pub(crate) fn check(operation: &'static str, code: sys::cudaError_enum) -> Result<(), CudaError> {
    let code = code as u32;
    match code {
        0 => Ok(()),
        _ => {
            let mut text = ptr::null();
            // SAFETY: `text` may be written, and what is written is a string that lives as long as the program.
            let text = unsafe {
                driver::cuGetErrorString(code, &mut text);
                CStr::from_ptr(text).to_string_lossy().into_owned()
            };
            Err(CudaError::Call { operation, code, text })
        }
    }
}

fn cust<T>(operation: &'static str, result: cust::error::CudaResult<T>) -> Result<T, CudaError> {
    result.map_err(|e| match check(operation, e.into_raw()) {
        Err(e) => e,
        Ok(()) => CudaError::Call { operation, code: 0, text: e.to_string() },
    })
}

trait IntoRaw {
    fn into_raw(self) -> sys::cudaError_enum;
}

impl IntoRaw for cust::error::CudaError {
    fn into_raw(self) -> sys::cudaError_enum {
        let code = self as u32;
        // Both enumerations list CUDA's codes, and `cust` made this one from the other; its own few begin at 100,000.
        match code {
            0..=999 => {
                // SAFETY: `cust::error::CudaError` has the codes of `cudaError_enum` below 1000.
                unsafe { std::mem::transmute::<u32, sys::cudaError_enum>(code) }
            }
            _ => sys::cudaError_enum::CUDA_ERROR_UNKNOWN,
        }
    }
}

impl Device {
    pub(crate) fn open(ordinal: u32) -> Result<Device, CudaError> {
        if !driver::present() {
            return Err(CudaError::NoDriver);
        }
        match cust("starting the driver", cust::init(cust::CudaFlags::empty())) {
            Err(CudaError::Call { code: 100, .. }) => return Err(CudaError::NoDevice),
            started => started?,
        }
        let mut version = 0;
        // SAFETY: `version` may be written.
        check("reading the driver's version", unsafe { sys::cuDriverGetVersion(&mut version) })?;
        if version < DRIVER {
            return Err(CudaError::OldDriver(version));
        }
        let count = match cust("counting devices", cust::device::Device::num_devices()) {
            Err(CudaError::Call { code: 100, .. }) => 0,
            count => count?,
        };
        if ordinal >= count {
            return Err(CudaError::NoDevice);
        }
        let device = cust("finding the device", cust::device::Device::get_device(ordinal))?;
        let attribute = |a| cust("reading the device's attributes", device.get_attribute(a));
        let major = attribute(DeviceAttribute::ComputeCapabilityMajor)?;
        let minor = attribute(DeviceAttribute::ComputeCapabilityMinor)?;
        if major < 8 {
            return Err(CudaError::OldDevice(major, minor));
        }
        let multiprocessors = attribute(DeviceAttribute::MultiprocessorCount)? as u32;
        let mut shared = 0;
        let most = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // SAFETY: the device exists and `shared` may be written.
        check("reading the device's attributes", unsafe {
            sys::cuDeviceGetAttribute(&mut shared, most, device.as_raw())
        })?;
        let shared = shared as u32;
        let name = cust("reading the device's name", device.name())?;
        let context = cust("opening a context", Context::new(device))?;
        let mut pool = ptr::null_mut();
        // SAFETY: the device exists and `pool` may be written.
        check("finding the memory pool", unsafe {
            sys::cuDeviceGetDefaultMemPool(&mut pool, device.as_raw())
        })?;
        // Freed memory stays with the process (this is the device's default pool, which all of it shares): it is asked for again a moment later.
        let mut keep = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a u64.
        check("setting up the memory pool", unsafe {
            sys::cuMemPoolSetAttribute(pool, threshold, (&mut keep as *mut u64).cast())
        })?;
        // Their PTX is that of CUDA 12.
        let hopper = (major, minor) == (9, 0) && version >= 12000;
        let (mut functions, mut modules) = (HashMap::new(), Vec::new());
        for (ptx, kernels) in MODULES.iter().chain(HOPPER.iter().filter(|_| hopper)) {
            let ptx = CString::new(*ptx).expect("PTX is text");
            let module = cust("loading kernels", Module::from_ptx_cstr(&ptx, &[]))?;
            for kernel in *kernels {
                let function = cust("finding a kernel", module.get_function(kernel.name))?.to_raw();
                // Static shared memory comes on top: 48 KiB in all are free.
                if kernel.shared > 32 << 10 && kernel.shared + STATIC <= shared {
                    let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    // SAFETY: the function belongs to a loaded module.
                    check("setting a kernel's shared memory", unsafe {
                        sys::cuFuncSetAttribute(function, limit, kernel.shared as i32)
                    })?;
                }
                functions.insert(kernel.name, function);
            }
            modules.push(module);
        }
        // Last, since nothing else of it needs to be undone by hand. Not ordered with the legacy default stream: callers say what to wait for.
        let (mut stream, flags) = (ptr::null_mut(), sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32);
        // SAFETY: `stream` may be written.
        check("opening a stream", unsafe { sys::cuStreamCreateWithPriority(&mut stream, flags, 0) })?;
        Ok(Device {
            functions,
            _modules: modules,
            stream,
            staging: RefCell::new(None),
            name,
            multiprocessors,
            shared,
            hopper,
            failure: RefCell::new(None),
            pool,
            context,
        })
    }

    /// Whether a block may have so much dynamic shared memory.
    pub(crate) fn has_shared(&self, bytes: u32) -> bool {
        bytes + STATIC <= self.shared
    }

    /// Blocks with so much dynamic shared memory that a multiprocessor runs at once, `most` at most: it has hardly more than one block may have.
    pub(crate) fn blocks(&self, bytes: u32, most: usize) -> usize {
        ((self.shared / bytes.max(1)) as usize).clamp(1, most)
    }

    /// The stream, its context made current: another device's backend, or a library beside this one, may have made another current.
    pub(crate) fn raw(&self) -> sys::CUstream {
        // SAFETY: the context lives as long as self. If this fails, what follows does, and is noted.
        unsafe { sys::cuCtxSetCurrent(self.context.as_raw()) };
        self.stream
    }

    /// Keeps the first failure.
    fn note(&self, operation: &'static str, code: sys::cudaError_enum) {
        if let Err(error) = check(operation, code) {
            self.keep(&error);
        }
    }

    /// The same for an error that is told at once too.
    pub(crate) fn keep(&self, error: &CudaError) {
        self.failure.borrow_mut().get_or_insert_with(|| error.clone());
    }

    /// Whether something failed: nothing is done any more until it has been told.
    pub(crate) fn failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// The first failure. It stays: what was made after it means nothing, and there is no telling what of it is still held.
    pub(crate) fn status(&self) -> Result<(), CudaError> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// What is enqueued from now on waits for the work that a stream of the caller's holds.
    pub(crate) fn after(&self, stream: u64) {
        self.order(stream as sys::CUstream, self.raw());
    }

    /// A stream of the caller's waits for all work so far.
    pub(crate) fn before(&self, stream: u64) {
        self.order(self.raw(), stream as sys::CUstream);
    }

    fn order(&self, first: sys::CUstream, then: sys::CUstream) {
        let mut event = ptr::null_mut();
        let flags = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: `event` may be written; both streams live, those of callers by their promise. A destroyed event that is waited for goes when that is over.
        unsafe {
            self.note("making an event", sys::cuEventCreate(&mut event, flags));
            if !event.is_null() {
                self.note("recording an event", sys::cuEventRecord(event, first));
                self.note("waiting for an event", sys::cuStreamWaitEvent(then, event, 0));
                sys::cuEventDestroy_v2(event);
            }
        }
    }

    /// Most bytes in use of the memory pool since the last reset.
    pub(crate) fn peak(&self, reset: bool) -> Result<u64, CudaError> {
        let (mut bytes, mut zero) = (0u64, 0u64);
        let what = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        self.synchronise()?;
        // SAFETY: the attribute is a u64; setting it to 0 resets it.
        unsafe {
            check(
                "reading the memory pool",
                sys::cuMemPoolGetAttribute(self.pool, what, (&raw mut bytes).cast()),
            )?;
            if reset {
                check(
                    "resetting the memory pool",
                    sys::cuMemPoolSetAttribute(self.pool, what, (&raw mut zero).cast()),
                )?;
            }
        }
        Ok(bytes)
    }

    /// Waits for all work, also where something has failed before: what was enqueued until then may still run.
    pub(crate) fn synchronise(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as self.
        self.note("waiting for the device", unsafe { sys::cuStreamSynchronize(self.raw()) });
        self.status()
    }

    /// Memory of `bytes` bytes, 0 if there is none.
    pub(crate) fn allocate(&self, bytes: usize) -> u64 {
        let mut at = 0;
        if bytes > 0 && !self.failed() {
            // SAFETY: `at` may be written.
            self.note("allocating memory", unsafe { sys::cuMemAllocAsync(&mut at, bytes, self.raw()) });
        }
        if self.failed() { 0 } else { at }
    }

    /// # Safety
    /// `at` came from [`allocate`](Self::allocate) and nothing enqueued later uses it.
    pub(crate) unsafe fn free(&self, at: u64) {
        if at != 0 {
            // SAFETY: the caller's promise. What cannot be freed in a dead context is gone with it.
            unsafe { sys::cuMemFreeAsync(at, self.raw()) };
        }
    }

    /// # Safety
    /// `to` has room for `bytes` bytes, `from` that many.
    pub(crate) unsafe fn to_device(&self, to: u64, from: *const c_void, bytes: usize) {
        if bytes > 0 && !self.failed() {
            // SAFETY: the caller's promise; the driver has copied or staged pageable memory when it returns.
            self.note("copying to the device", unsafe {
                sys::cuMemcpyHtoDAsync_v2(to, from, bytes, self.raw())
            });
        }
    }

    /// Copies back and waits. Leaves `to` alone if something failed before.
    ///
    /// # Safety
    /// `from` has `bytes` bytes, `to` room for them.
    pub(crate) unsafe fn to_host(&self, to: *mut c_void, from: u64, bytes: usize) {
        if bytes >= STAGE {
            let mut to = to.cast::<u8>();
            // What failed is kept.
            let _ = self.fetch(from, bytes, |piece| {
                // SAFETY: pieces are `bytes` bytes together, and `to` has room for them.
                unsafe {
                    ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
                    to = to.add(piece.len());
                }
            });
        } else if bytes > 0 && !self.failed() {
            // SAFETY: the caller's promise; the copy has ended when the stream has.
            unsafe {
                self.note("copying from the device", sys::cuMemcpyDtoHAsync_v2(to, from, bytes, self.raw()));
                self.note("waiting for the device", sys::cuStreamSynchronize(self.raw()));
            }
        }
    }

    /// # Safety
    /// Both have `bytes` bytes and do not overlap.
    pub(crate) unsafe fn within(&self, to: u64, from: u64, bytes: usize) {
        if bytes > 0 && !self.failed() {
            // SAFETY: the caller's promise.
            self.note("copying on the device", unsafe {
                sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.raw())
            });
        }
    }

    /// # Safety
    /// `to` has `bytes` bytes.
    pub(crate) unsafe fn fill(&self, to: u64, value: u8, bytes: usize) {
        if bytes > 0 && !self.failed() {
            // SAFETY: the caller's promise.
            self.note("clearing memory", unsafe { sys::cuMemsetD8Async(to, value, bytes, self.raw()) });
        }
    }

    /// Enqueues a kernel. A grid with no block is no work.
    ///
    /// # Safety
    /// `params` point to values of the types of the kernel's parameters, in order; buffers that they name are as large as the kernel says.
    pub(crate) unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: (usize, usize, usize),
        threads: u32,
        shared: u32,
        params: &mut [*mut c_void],
    ) {
        if self.failed() || grid.0 * grid.1 * grid.2 == 0 {
            return;
        }
        let function = self.functions[kernel.name];
        // SAFETY: the function's module is loaded; the caller's promise for the rest.
        let code = unsafe {
            sys::cuLaunchKernel(
                function,
                grid.0 as u32,
                grid.1 as u32,
                grid.2 as u32,
                threads,
                1,
                1,
                shared,
                self.raw(),
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.note(kernel.name, code);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let stream = self.raw();
        // SAFETY: the stream lives. Modules must not go before the work that runs their kernels; what failed was told or is of no interest any more.
        unsafe { sys::cuStreamSynchronize(stream) };
        // While the context is there and current.
        self.staging.take();
        // SAFETY: nothing uses the stream any more.
        unsafe { sys::cuStreamDestroy_v2(stream) };
    }
}
