//! The stdio streams that the host opens: each is one connection whose first line is its name. They wait here, parked,
//! for the request that names them, or a request waits for them.

use std::{collections::HashMap, io, sync::Mutex, time::Duration};

use bulkhead_agent_protocol::MAX_STREAM_NAME;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::oneshot,
    time::timeout,
};

use crate::error::AgentError;

/// How long a request waits for a stream that it names. The host opens them first, so only an error makes it wait.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a stream goes over.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// One stream.
pub struct Stream {
    /// Bytes that came together with the name.
    pub early: Vec<u8>,
    /// What comes after.
    pub connection: Box<dyn Connection>,
}

/// Streams by name, each either there and not yet asked for, or asked for and not yet there.
#[derive(Default)]
pub struct Streams(Mutex<HashMap<String, Slot>>);

enum Slot {
    Parked(Stream),
    Wanted(oneshot::Sender<Stream>),
}

impl Streams {
    /// Takes in a new connection: reads its name and parks it or gives it to who waits. A connection without a proper
    /// name is closed, and so is one that is parked when another comes with its name.
    pub async fn admit(&self, mut connection: impl Connection + 'static) {
        match read_name(&mut connection).await {
            Ok((name, early)) => {
                let connection = Box::new(connection);
                self.park(name, Stream { early, connection });
            }
            Err(error) => eprintln!("bulkhead-agent: a stream without a name closed: {error}"),
        }
    }

    fn park(&self, name: String, stream: Stream) {
        let mut slots = self.lock();
        let stream = match slots.remove(&name) {
            Some(Slot::Wanted(request)) => match request.send(stream) {
                Ok(()) => return,
                // The request has been given up meanwhile.
                Err(stream) => stream,
            },
            // The host means the newer one.
            Some(Slot::Parked(_)) | None => stream,
        };
        slots.insert(name, Slot::Parked(stream));
    }

    /// The stream of that name, as soon as it is there; none for the empty name.
    ///
    /// # Errors
    /// When the host does not open it.
    pub async fn claim(&self, name: &str) -> Result<Option<Stream>, AgentError> {
        if name.is_empty() {
            return Ok(None);
        }
        let missing = || AgentError::NoStream(name.to_owned());
        let arrival = {
            let mut slots = self.lock();
            match slots.remove(name) {
                Some(Slot::Parked(stream)) => return Ok(Some(stream)),
                Some(Slot::Wanted(request)) if !request.is_closed() => {
                    slots.insert(name.to_owned(), Slot::Wanted(request));
                    return Err(AgentError::Request(format!(
                        "two requests name the stream \"{name}\""
                    )));
                }
                Some(Slot::Wanted(_)) | None => {
                    let (sender, receiver) = oneshot::channel();
                    slots.insert(name.to_owned(), Slot::Wanted(sender));
                    receiver
                }
            }
        };
        let arrived = timeout(DEADLINE, arrival).await;
        match arrived {
            Ok(Ok(stream)) => Ok(Some(stream)),
            _ => {
                self.lock().remove(name);
                Err(missing())
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().expect("nothing panics while it is locked")
    }
}

/// The first line, and what has come after it already.
async fn read_name(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<(String, Vec<u8>)> {
    let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut bytes = Vec::with_capacity(4096);
    let end = loop {
        if connection.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        if bytes.len() > MAX_STREAM_NAME {
            return Err(invalid("the name is too long"));
        }
    };
    let early = bytes.split_off(end + 1);
    bytes.truncate(end);
    if bytes.is_empty() || bytes.len() > MAX_STREAM_NAME || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(invalid("the name is not 1 to 128 printable characters"));
    }
    let name = String::from_utf8(bytes).map_err(|_| invalid("the name is not ASCII"))?;
    Ok((name, early))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_stream_waits_for_its_request() {
        let streams = Streams::default();
        let (mut host, guest) = duplex(64);
        host.write_all(b"c1.stdin\nearly").await.unwrap();
        streams.admit(guest).await;
        let stream = streams.claim("c1.stdin").await.unwrap().unwrap();
        assert_eq!(stream.early, b"early");
    }

    #[tokio::test]
    async fn a_request_waits_for_its_stream() {
        let streams = Arc::new(Streams::default());
        let request = tokio::spawn({
            let streams = Arc::clone(&streams);
            async move { streams.claim("late").await.unwrap().is_some() }
        });
        tokio::task::yield_now().await;
        let (mut host, guest) = duplex(64);
        host.write_all(b"la").await.unwrap();
        let admission = tokio::spawn(async move { streams.admit(guest).await });
        tokio::task::yield_now().await;
        host.write_all(b"te\n").await.unwrap();
        admission.await.unwrap();
        assert!(request.await.unwrap());
    }

    #[tokio::test]
    async fn no_name_is_no_stream() {
        assert!(Streams::default().claim("").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn bad_names_are_refused() {
        for bytes in [&b"\n"[..], b"a b\n", b"\xff\n", &[b'x'; 200], b"unfinished"] {
            let (mut host, mut guest) = duplex(256);
            host.write_all(bytes).await.unwrap();
            drop(host);
            read_name(&mut guest).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_newer_stream_takes_the_name() {
        let streams = Streams::default();
        for content in [&b"n\nfirst"[..], b"n\nsecond"] {
            let (mut host, guest) = duplex(64);
            host.write_all(content).await.unwrap();
            streams.admit(guest).await;
        }
        assert_eq!(streams.claim("n").await.unwrap().unwrap().early, b"second");
    }
}
