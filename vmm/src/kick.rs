//! Getting a thread out of KVM_RUN: a signal whose handler tells KVM to return at once, so that it does not matter whether
//! the thread is in KVM_RUN already or about to enter it.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// The `immediate_exit` byte that KVM shares with this thread's virtual processor, null in other threads.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

extern "C" fn on_kick(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: a thread that sets the pointer keeps the mapping behind it until it ends.
        unsafe { (*flag).store(1, Ordering::Release) };
    }
}

/// Installs the handler, once for the process and before the first processor's thread.
pub fn install_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(Into::into)
}

/// Makes kicks of this thread stop this processor. The caller must keep it until the thread ends.
pub fn prepare_thread(vcpu: &mut VcpuFd) {
    let flag = ptr::from_mut(&mut vcpu.get_kvm_run().immediate_exit);
    IMMEDIATE_EXIT.set(flag.cast::<AtomicU8>().cast_const());
}

/// Gets that thread out of KVM_RUN.
pub fn kick(thread: &JoinHandle<()>) {
    // SAFETY: the handle keeps the thread's identity valid. It fails when the thread has ended, which is as good.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
}
