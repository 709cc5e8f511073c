//! Descriptors that are handed over by Unix sockets.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Takes the descriptor that the next client sends, and the text that comes with it.
///
/// # Panics
/// Something else has been sent.
#[must_use]
#[track_caller]
pub fn receive_descriptor(listener: &UnixListener) -> (String, OwnedFd) {
    let (stream, _) = listener.accept().expect("a client");
    let mut text = [0; 64];
    let mut parts = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    );
    let message = message.expect("a message");
    let length = message.bytes;
    assert!(length > 0, "a message has a text");
    let descriptor = message
        .cmsgs()
        .expect("a whole message")
        .find_map(|part| match part {
            ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
            _ => None,
        });
    // SAFETY: the kernel has just made it for us.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor.expect("a descriptor")) };
    (String::from_utf8_lossy(&text[..length]).into_owned(), descriptor)
}
