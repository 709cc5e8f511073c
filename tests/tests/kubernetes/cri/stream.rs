//! The streams of exec, attach and port-forward: channels in a WebSocket, as `v4.channel.k8s.io` has them.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::str::FromStr;

use bulkhead_tests::harness::LIMIT;
use http::Uri;
use serde_json::Value;
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket};

/// What the first byte of each message says.
pub mod channel {
    /// What the program reads.
    pub const STDIN: u8 = 0;
    /// What it writes; on a terminal, everything.
    pub const STDOUT: u8 = 1;
    /// What it writes to stderr.
    pub const STDERR: u8 = 2;
    /// How it ended.
    pub const STATUS: u8 = 3;
    /// The terminal's new size.
    pub const RESIZE: u8 = 4;
    /// What goes to and comes from a port.
    pub const DATA: u8 = 0;
    /// Why a port cannot be reached.
    pub const ERROR: u8 = 1;
}

/// An open stream.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    received: BTreeMap<u8, Vec<u8>>,
}

impl Stream {
    /// Opens the stream at the URL that the runtime has given.
    ///
    /// # Panics
    /// Nobody takes it.
    #[track_caller]
    pub fn open(url: &str) -> Self {
        let uri = Uri::from_str(&url.replacen("http:", "ws:", 1)).expect("a URL");
        let host = uri.authority().expect("a URL with a host").as_str();
        let tcp = TcpStream::connect(host).expect("the streaming server listens");
        tcp.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let request = ClientRequestBuilder::new(uri.clone()).with_sub_protocol("v4.channel.k8s.io");
        let (socket, _) = tungstenite::client(request, tcp).unwrap_or_else(|error| panic!("{url}: {error}"));
        Self {
            socket,
            received: BTreeMap::new(),
        }
    }

    /// Sends bytes on a channel.
    ///
    /// # Panics
    /// The stream is over.
    #[track_caller]
    pub fn send(&mut self, channel: u8, bytes: impl AsRef<[u8]>) {
        let message = [&[channel], bytes.as_ref()].concat();
        self.socket
            .send(Message::binary(message))
            .expect("the stream is open");
    }

    /// Waits until `text` has come on a channel.
    ///
    /// # Panics
    /// The stream ends without it, or it takes longer than [`LIMIT`].
    #[track_caller]
    pub fn wait_for(&mut self, channel: u8, text: &str) {
        while !self.text(channel).contains(text) {
            assert!(self.receive(), "{text:?} never came: {:?}", self.text(channel));
        }
    }

    /// Waits for the end; what came on a channel is in [`Stream::text`] then.
    ///
    /// # Panics
    /// It takes longer than [`LIMIT`].
    #[track_caller]
    pub fn wait(&mut self) {
        while self.receive() {}
    }

    /// Waits until so many bytes have come on a channel, or the stream is over.
    ///
    /// # Panics
    /// It takes longer than [`LIMIT`].
    #[track_caller]
    pub fn wait_for_length(&mut self, channel: u8, length: usize) {
        while self.bytes(channel).len() < length && self.receive() {}
    }

    /// What has come on a channel.
    pub fn bytes(&self, channel: u8) -> &[u8] {
        self.received.get(&channel).map(Vec::as_slice).unwrap_or_default()
    }

    /// The same as text.
    pub fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.bytes(channel)).into_owned()
    }

    /// How the program has ended: 0, or what the status says.
    ///
    /// # Panics
    /// There is no status.
    #[track_caller]
    pub fn exit_code(&self) -> i32 {
        let status: Value = serde_json::from_str(&self.text(channel::STATUS)).expect("a status");
        if status["status"] == "Success" {
            return 0;
        }
        let code = status["details"]["causes"][0]["message"].as_str();
        code.and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no exit code in {status}"))
    }

    /// Takes a message; says whether there was one.
    #[track_caller]
    fn receive(&mut self) -> bool {
        match self.socket.read() {
            Ok(Message::Binary(message)) => {
                if let Some((channel, bytes)) = message.split_first() {
                    self.received.entry(*channel).or_default().extend(bytes);
                }
                true
            }
            Ok(Message::Close(_))
            | Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => false,
            Ok(_) => true,
            Err(error) => panic!("the stream: {error}"),
        }
    }
}
