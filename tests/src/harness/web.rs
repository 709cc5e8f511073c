//! A web client, for what containers serve.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What the web server at an address answers for `/page`.
///
/// # Panics
/// There is none, or it does not answer.
#[must_use]
#[track_caller]
pub fn page(address: impl Into<SocketAddr>) -> String {
    let mut stream = TcpStream::connect(address.into()).expect("the port is open");
    stream
        .write_all(b"GET /page HTTP/1.0\r\n\r\n")
        .expect("the server listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
