//! Doing something as the user of a request.

use std::io;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid,
};

use fuse_backend_rs::api::filesystem::Context;

/// Who this thread is when it is nobody else.
pub struct Own {
    user: Uid,
    group: Gid,
}

impl Own {
    /// This thread as it is.
    pub fn of_this_thread() -> Self {
        Own {
            user: geteuid(),
            group: getegid(),
        }
    }

    /// Makes this thread the request's user until the result is dropped. Its capabilities stay, see
    /// [`HostView::prepare`](super::super::HostView::prepare).
    ///
    /// # Errors
    /// `EINVAL` for the number that is nobody's; the kernel's.
    pub fn become_user(&self, request: &Context) -> io::Result<Someone<'_>> {
        let (user, group) = (uid(request.uid)?, gid(request.gid)?);
        let is_other = (user, group) != (self.user, self.group);
        if is_other {
            // From here on the guard is what undoes it.
            let someone = Someone { own: self, is_other };
            set_thread_res_gid(self.group, group, self.group)?;
            set_thread_res_uid(self.user, user, self.user)?;
            return Ok(someone);
        }
        Ok(Someone { own: self, is_other })
    }
}

/// While it lives, this thread is the user of a request.
pub struct Someone<'o> {
    own: &'o Own,
    is_other: bool,
}

impl Drop for Someone<'_> {
    fn drop(&mut self) {
        if self.is_other {
            let Own { user, group } = *self.own;
            set_thread_res_uid(user, user, user).expect("a thread can always take up its saved user again");
            set_thread_res_gid(group, group, group)
                .expect("a thread can always take up its saved group again");
        }
    }
}

/// While it lives, what this thread creates lacks the bits of a mask. The host's kernel applies it and not we, since it
/// must not where the folder has a default ACL.
pub struct Mask;

impl Mask {
    /// Sets the thread's mask. The thread must not share it with others (`CLONE_FS`).
    pub fn set(mask: u32) -> Self {
        umask(Mode::from_raw_mode(mask & 0o777));
        Mask
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        umask(Mode::empty());
    }
}

/// While it lives, the kernel clears the set-user-id and set-group-id bits of files that this thread writes to, as it
/// does for the user of a request.
pub struct Unprivileged<'o> {
    capabilities: CapabilitySets,
    // Taken back after the capability has been: fields are dropped in their order.
    _someone: Someone<'o>,
}

impl<'o> Unprivileged<'o> {
    /// Becomes the user of the request, since the bits also depend on the user's group, without `CAP_FSETID`.
    ///
    /// # Errors
    /// As for [`Own::become_user`].
    pub fn new(own: &'o Own, request: &Context) -> io::Result<Self> {
        let someone = own.become_user(request)?;
        let capabilities = capabilities(None)?;
        let mut less = capabilities;
        less.effective.remove(CapabilitySet::FSETID);
        set_capabilities(None, less)?;
        Ok(Unprivileged {
            capabilities,
            _someone: someone,
        })
    }
}

impl Drop for Unprivileged<'_> {
    fn drop(&mut self) {
        set_capabilities(None, self.capabilities).expect("a thread can always raise what it is permitted");
    }
}

/// A user by a number from the guest.
pub fn uid(number: u32) -> io::Result<Uid> {
    if number == u32::MAX {
        Err(Errno::INVAL.into())
    } else {
        Ok(Uid::from_raw(number))
    }
}

/// A group by a number from the guest.
pub fn gid(number: u32) -> io::Result<Gid> {
    if number == u32::MAX {
        Err(Errno::INVAL.into())
    } else {
        Ok(Gid::from_raw(number))
    }
}
