//! Connections from the host to the guest.

use std::{io, os::fd::OwnedFd, path::PathBuf};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{StateError, StateFolder, folder::address};

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
        let path = address(&handle, StateFolder::VSOCK);
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
        self.connect_and_say(port, "").await
    }

    /// As [`Self::connect`], with `first` said to the guest without waiting for the answer. The guest must say nothing of
    /// itself after that.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_and_say(&self, port: u32, first: &str) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path).await?;
        stream
            .write_all(format!("CONNECT {port}\n{first}").as_bytes())
            .await?;
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

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::sandbox::Id;

    /// Connects to port 7 of a guest whose VMM reads the request and does `answer` to the connection.
    async fn connect<F: Future<Output = ()>>(answer: impl FnOnce(UnixStream) -> F) -> io::Result<UnixStream> {
        let root = tempfile::tempdir().expect("temporary folder");
        // Longer than the address of a Unix socket can be.
        let root = root.path().join("x".repeat(120));
        let id: Id = "a".parse().expect("valid id");
        let folder = StateFolder::create(&root, &id).expect("free");
        let guest = GuestSocket::of(&folder).expect("a folder");
        let listener = UnixListener::bind(&guest.path).expect("a socket");
        let vmm = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = [0; 10];
            stream.read_exact(&mut request).await.expect("a request");
            assert_eq!(&request, b"CONNECT 7\n");
            answer(stream).await;
        };
        tokio::join!(guest.connect(7), vmm).0
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_stream_begins_after_the_answer() {
        let mut stream = connect(async |mut stream| {
            for part in [&b"O"[..], b"K 1073", b"741824\n"] {
                stream.write_all(part).await.expect("a client");
                tokio::task::yield_now().await;
            }
            tokio::spawn(async move {
                let mut word = [0; 5];
                stream.read_exact(&mut word).await.expect("a client");
                stream.write_all(&word).await.expect("a client");
            });
        })
        .await
        .expect("accepted");
        stream.write_all(b"hello").await.expect("connected");
        let mut word = String::new();
        stream.read_to_string(&mut word).await.expect("connected");
        assert_eq!(word, "hello");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_that_is_closed_was_refused() {
        let error = connect(async |stream| drop(stream)).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn another_answer_is_an_error() {
        for answer in ["NO\n", "OK 12345678901234567890\n", "\n"] {
            let result = connect(async |mut stream| {
                stream.write_all(answer.as_bytes()).await.expect("a client");
            })
            .await;
            result.expect_err(answer);
        }
    }
}
