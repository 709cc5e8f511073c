//! Asking a running VMM, over its control socket.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use bulkhead_vmm::control::{Request, Response};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::UnixStream,
    time::timeout,
};

use super::{StateError, StateFolder, folder::address};

/// The most that is read of what a VMM says, in bytes: it is not trusted to stop.
pub const LONGEST_ANSWER: usize = 1 << 20;

/// How long the VMM may take to answer a question about a guest that is in trouble.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The way to a VMM's control socket. Clones lead to the same.
#[derive(Clone)]
pub struct VmmControl {
    /// Keeps the descriptor in `socket` open.
    _folder: Rc<OwnedFd>,
    socket: PathBuf,
}

impl VmmControl {
    /// By the state folder of the sandbox's owner.
    ///
    /// # Errors
    /// The folder has gone.
    pub fn of(folder: &StateFolder) -> Result<Self, StateError> {
        let handle = folder.handle()?;
        Ok(Self {
            socket: address(&handle, StateFolder::CONTROL),
            _folder: Rc::new(handle),
        })
    }

    /// The last lines of the guest's console; none if the VMM does not answer at once.
    pub async fn last_words(&self) -> Vec<String> {
        match timeout(LAST_WORDS, self.ask(&Request::Console {})).await {
            Ok(Ok(Response::Console { lines })) => lines,
            _ => Vec::new(),
        }
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// The VMM does not answer, or says what makes no sense.
    pub async fn ask(&self, request: &Request) -> io::Result<Response> {
        self.ask_with(request, None).await
    }

    /// The same, with a descriptor attached.
    ///
    /// # Errors
    /// As of [`VmmControl::ask`].
    pub async fn ask_with(
        &self,
        request: &Request,
        attached: Option<BorrowedFd<'_>>,
    ) -> io::Result<Response> {
        let mut connection = UnixStream::connect(&self.socket).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let send = || send(&connection, &line, attached);
        let sent = connection.async_io(Interest::WRITABLE, send).await?;
        connection.write_all(line.get(sent..).unwrap_or_default()).await?;
        let mut answer = String::new();
        BufReader::new(connection.take(LONGEST_ANSWER as u64))
            .read_line(&mut answer)
            .await?;
        Ok(serde_json::from_str(&answer)?)
    }
}

/// Sends the beginning of `bytes`, and the descriptor with its first one.
fn send(connection: &UnixStream, bytes: &[u8], attached: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = attached.as_slice();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(
        connection,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        flags,
    )?)
}
