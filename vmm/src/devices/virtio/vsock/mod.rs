//! virtio-vsock (virtio 1.2, section 5.10), backed by Unix sockets.
//!
//! A stream socket of the guest is joined with a Unix stream socket of the host. Programs on the host reach listeners
//! in the guest through one listening socket (`host`: the `CONNECT` handshake); connections that the guest opens to
//! the host (CID 2) are handed out as socket pairs over the uplink.
//!
//! From the outside in:
//!
//! - `device`: what the transport sees.
//! - `handler`: the event loop's side; decides when rings and sockets are looked at, and when the driver is told.
//! - `rings`: descriptor chains to packets and back.
//! - `streams`: all connections, routing, whose turn it is to send to the guest.
//! - `connection`: one connection; `credit` and `backlog` are its flow control and its only buffer.
//! - `socket`: moves bytes between guest memory and a socket.
//! - `packet`: the header on the wire.
//!
//! # Bounds
//!
//! Bytes on their way to the guest are read from the socket straight into the guest's buffers. Bytes on their way to
//! the host are written from the guest's memory; what the socket does not take is kept, at most 256 KiB per
//! connection, which is what the guest is told it may send. Connections, sockets in the handshake and sockets that
//! still have to take a closed connection's last bytes are together at most 4096. So a guest whose peers on the host
//! do not read can make the VMM hold 1 GiB and no more; it is charged to the sandbox's control group.

mod backlog;
mod connection;
mod credit;
mod device;
mod handler;
mod host;
mod packet;
mod rings;
mod socket;
mod streams;

#[cfg(test)]
mod tests;

pub use device::VsockDevice;
