//! Connections from the host to the guest.

use std::{io, os::fd::AsRawFd, os::fd::OwnedFd, path::PathBuf};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{StateError, StateFolder};

/// The longest answer to `CONNECT`: `OK `, ten digits, an end of line.
const MAX_ANSWER: usize = 14;

/// The Unix socket behind which the guest's vsock ports are.
#[derive(Debug)]
pub struct GuestSocket {
    /// Keeps the descriptor in `path` open.
    _folder: OwnedFd,
    path: PathBuf,
}

impl GuestSocket {
    /// The socket of a sandbox. The path goes through a descriptor of the folder: its own may be longer than a Unix
    /// socket's address can be.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn of(folder: &StateFolder) -> Result<Self, StateError> {
        let handle = folder.handle()?;
        let path = format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), StateFolder::VSOCK).into();
        Ok(Self {
            _folder: handle,
            path,
        })
    }

    /// Connects to a port of the guest.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there.
    pub async fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path).await?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
        let mut answer = [0; MAX_ANSWER];
        let mut length = 0;
        // The other side says nothing more until it is spoken to, so a read never takes what follows the answer.
        while !answer[..length].ends_with(b"\n") {
            match stream.read(&mut answer[length..]).await? {
                0 => return Err(io::ErrorKind::ConnectionRefused.into()),
                n => length += n,
            }
        }
        if answer.starts_with(b"OK ") {
            Ok(stream)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}
