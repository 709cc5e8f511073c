//! Bytes over TCP. A client's first byte says what it wants.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use super::{stream, time};

/// What the server prints when it can be connected to.
pub const LISTENING: &str = "listening";

/// The server takes all that comes, and answers with one byte at its end.
const SEND: u8 = b's';
/// The server sends as many MiB as the next byte says.
const RECEIVE: u8 = b'r';
/// The server answers each byte with itself.
const ASK: u8 = b'a';

/// Serves for ever.
pub fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("{LISTENING}");
    serve_all(&listener)
}

fn serve_all(listener: &TcpListener) -> io::Result<()> {
    for client in listener.incoming() {
        // A client that has been killed is no reason to end.
        let _ = serve_one(&mut client?);
    }
    Ok(())
}

fn serve_one(client: &mut TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    match byte(client)? {
        SEND => {
            stream::drain(client)?;
            client.write_all(&[0])
        }
        RECEIVE => {
            let mib = byte(client)?;
            stream::pour(client, mib.into())
        }
        _ => loop {
            let asked = byte(client)?;
            client.write_all(&[asked])?;
        },
    }
}

fn byte(from: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let server = TcpStream::connect(address)?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// How long it takes to send so much, until all has arrived.
pub fn send(address: &str, mib: u32) -> io::Result<Duration> {
    let mut server = connect(address)?;
    server.write_all(&[SEND])?;
    time(|| {
        stream::pour(&mut server, mib)?;
        server.shutdown(Shutdown::Write)?;
        byte(&mut server).map(drop)
    })
}

/// How long it takes to receive so much.
pub fn receive(address: &str, mib: u8) -> io::Result<Duration> {
    let mut server = connect(address)?;
    time(|| {
        server.write_all(&[RECEIVE, mib])?;
        stream::drain(&mut server).map(drop)
    })
}

/// How long it takes to send a byte and to receive the answer, so many times.
pub fn ask(address: &str, count: u32) -> io::Result<Duration> {
    let mut server = connect(address)?;
    server.write_all(&[ASK])?;
    let mut once = || {
        server.write_all(b"?")?;
        byte(&mut server).map(drop)
    };
    // Addresses are resolved, windows are open.
    once()?;
    time(|| (0..count).try_for_each(|_| once()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_server_takes_sends_and_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        thread::spawn(move || serve_all(&listener));
        send(&address, 3).expect("sent");
        receive(&address, 3).expect("received");
        ask(&address, 3).expect("answered");
    }
}
