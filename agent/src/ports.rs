//! Connections of the host's to programs that listen at the guest's loopback interface.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::{
    io::{AsyncWriteExt, copy_bidirectional_with_sizes},
    net::TcpStream,
};

use crate::{error::AgentError, failure::Step, streams::Stream};

/// How much is carried at a time.
const CHUNK: usize = 64 * 1024;

/// Connects a stream to a port, and carries bytes both ways in the background, until both have ended.
///
/// # Errors
/// When nobody listens there, neither with IPv4 nor with IPv6; when there is no stream, or no such port.
pub async fn connect(port: u32, stream: Option<Stream>) -> Result<(), AgentError> {
    let stream = stream.ok_or_else(|| AgentError::Request("stream is empty".to_owned()))?;
    let port = u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| AgentError::Request(format!("{port} is no port")))?;
    let connection = dial(port)
        .await
        .step(|| format!("connect to port {port} of the loopback interface"))?;
    tokio::spawn(async move {
        // An error of either side ends both, and nothing else can be done about it.
        let _ = carry(connection, stream).await;
    });
    Ok(())
}

/// As a client dials `localhost`: IPv4's address, then IPv6's.
async fn dial(port: u16) -> io::Result<TcpStream> {
    let connect = |address: IpAddr| TcpStream::connect((address, port));
    match connect(Ipv4Addr::LOCALHOST.into()).await {
        Ok(connection) => Ok(connection),
        // The first answer is the one to tell of: a guest may be without IPv6.
        Err(error) => connect(Ipv6Addr::LOCALHOST.into()).await.map_err(|_| error),
    }
}

async fn carry(mut connection: TcpStream, mut stream: Stream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.write_all(&stream.early).await?;
    copy_bidirectional_with_sizes(&mut connection, &mut stream.connection, CHUNK, CHUNK).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, duplex},
        net::TcpListener,
    };

    use super::*;

    fn stream() -> (tokio::io::DuplexStream, Stream) {
        let (host, guest) = duplex(1 << 12);
        let stream = Stream {
            early: b"early ".to_vec(),
            connection: Box::new(guest),
        };
        (host, stream)
    }

    #[tokio::test]
    async fn each_way_ends_by_itself() {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let listener = TcpListener::bind((address, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (mut host, guest) = stream();
            connect(port.into(), Some(guest)).await.unwrap();
            host.write_all(b"question").await.unwrap();
            host.shutdown().await.unwrap();
            let (mut program, _) = listener.accept().await.unwrap();
            let mut question = String::new();
            program.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "early question");
            program.write_all(b"answer").await.unwrap();
            drop(program);
            let mut answer = String::new();
            host.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
        }
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_refuses() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (mut host, guest) = stream();
        let error = connect(port.into(), Some(guest)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("connect to port {port} of the loopback interface: Connection refused")
        );
        assert_eq!(host.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_no_port_or_no_stream_is_refused() {
        for port in [0, 65536] {
            let (_host, guest) = stream();
            let error = connect(port, Some(guest)).await.unwrap_err();
            assert_eq!(error.to_string(), format!("{port} is no port"));
        }
        connect(80, None).await.unwrap_err();
    }
}
