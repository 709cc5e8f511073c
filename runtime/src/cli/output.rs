//! Standard output of the commands that print something.

use std::io::{self, ErrorKind, Write};

use super::{Error, io as failed};
use crate::{container::end_as, sandbox::Exit};

/// Prints all of a text. Who reads it may have seen enough, as `head` has: then the process dies by SIGPIPE, as it would have
/// if the signal were not ignored for the sake of stand-ins.
///
/// # Errors
/// It cannot be written.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => end_as(Exit::Signal(libc::SIGPIPE)),
        written => written.map_err(failed("standard output")),
    }
}
