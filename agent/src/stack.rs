//! Where a thread's stack ends, which nobody needs to know here.

use libc::{ENOSYS, c_int, pthread_attr_t, pthread_t};

/// Takes the place of the C library's, which reads `/proc/self/maps` by `scanf` and is, with all that it needs, a twentieth of the
/// agent. The standard library asks in order to say whether an access to memory that ends the program was a stack
/// that is too long. When the agent starts there is no `/proc` to read, and so it never knew of the first thread.
// SAFETY: it has the name and the type of the C library's, and fails as that may.
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(_thread: pthread_t, _attributes: *mut pthread_attr_t) -> c_int {
    ENOSYS
}
