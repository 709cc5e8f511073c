//! One socket for all TCP connections to the loopback addresses of a network namespace, whatever their port: the program
//! that the kernel asks which socket gets a connection (`BPF_PROG_TYPE_SK_LOOKUP`) names this one.

use std::{
    fs::File,
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::{
    fd::RawFd,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt::set_ipv6_v6only,
    },
};
use tokio::net::{TcpListener, TcpStream};

use super::bpf::{self, Instruction};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// The socket. Others of the namespace that listen at loopback addresses get no connections while it is there.
#[derive(Debug)]
pub struct LoopbackListener {
    listener: TcpListener,
    /// The program is asked as long as this is open.
    _link: OwnedFd,
}

/// Why there is no such socket.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct LoopbackError {
    step: &'static str,
    source: io::Error,
}

impl LoopbackListener {
    /// Listens in the namespace of the calling thread. Called inside a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no such programs (it is older than 5.9), or does not let this process have one.
    pub fn new() -> Result<Self, LoopbackError> {
        let failed = |step| move |source| LoopbackError { step, source };
        let socket = socket().map_err(failed("listen at the loopback interface"))?;
        let map = bpf::map_of(socket.as_fd()).map_err(failed("put a socket into a BPF map"))?;
        let program = bpf::load(&program(map.as_raw_fd())).map_err(failed("load a BPF program"))?;
        let link = File::open("/proc/thread-self/ns/net")
            .and_then(|namespace| bpf::attach(&program, namespace.as_fd()))
            .map_err(failed("attach a BPF program to the network namespace"))?;
        let listener = TcpListener::from_std(socket.into()).map_err(failed("wait for connections"))?;
        Ok(Self {
            listener,
            _link: link,
        })
    }

    /// The next connection, and the port that it is to.
    ///
    /// # Errors
    /// The system is short of something.
    pub async fn accept(&self) -> io::Result<(TcpStream, u16)> {
        loop {
            let accepted = async {
                let (connection, from) = self.listener.accept().await?;
                Ok((connection.local_addr()?, from, connection))
            };
            match accepted.await {
                Ok((to, from, connection)) if is_loopback(to) && is_loopback(from) => {
                    return Ok((connection, to.port()));
                }
                // To the port that the socket itself has, by another address of the namespace.
                Ok(_) => {}
                Err(error) if is_over(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether it is the connection that has failed, not the socket.
fn is_over(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

/// One for both versions of IP, which needs no address of either.
fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::STREAM,
        flags,
        Some(ipproto::TCP),
    )?;
    set_ipv6_v6only(&socket, false)?;
    bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Registers of the program.
const RESULT: u8 = 0;
const ARGUMENT_1: u8 = 1;
const ARGUMENT_2: u8 = 2;
const ARGUMENT_3: u8 = 3;
/// Those that calls leave alone.
const CONTEXT: u8 = 6;
const SOCKET: u8 = 7;
const FRAME: u8 = 10;

/// Where `struct bpf_sk_lookup` has what is to be known of a connection.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const STORE_WORD: u8 = 0x62; // BPF_ST | BPF_MEM | BPF_W
const LOAD_MAP: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW, of two instructions
const PSEUDO_MAP_FD: u8 = 1;
const COPY: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const ADD: u8 = 0x07; // BPF_ALU64 | BPF_ADD | BPF_K
const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
const JUMP_IF_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const JUMP_UNLESS_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const JUMP_IF_ZERO: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;
/// Lets the kernel go on with the socket that has been assigned, or else look for one itself.
const SK_PASS: i32 = 1;

/// A jump to the program's end.
const TO_END: i16 = i16::MAX;

/// Gives every TCP connection to 127.0.0.1 and ::1 the socket in the map, and lets the rest be.
fn program(map: RawFd) -> Vec<Instruction> {
    let word = |octets: [u8; 4]| i32::from_ne_bytes(octets);
    let load = |offset| instruction(LOAD_WORD, ARGUMENT_1, CONTEXT, offset, 0);
    let or_end = |value| instruction(JUMP_UNLESS_EQUAL, ARGUMENT_1, 0, TO_END, value);
    let ip4 = [load(LOCAL_IP4), or_end(word([127, 0, 0, 1]))];
    let ip6 = [
        load(LOCAL_IP6),
        or_end(0),
        load(LOCAL_IP6 + 4),
        or_end(0),
        load(LOCAL_IP6 + 8),
        or_end(0),
        load(LOCAL_IP6 + 12),
        or_end(word([0, 0, 0, 1])),
        instruction(JUMP, 0, 0, 2, 0),
    ];
    let mut program = vec![
        instruction(COPY, CONTEXT, ARGUMENT_1, 0, 0),
        load(PROTOCOL),
        or_end(libc::IPPROTO_TCP),
        load(FAMILY),
        instruction(JUMP_IF_EQUAL, ARGUMENT_1, 0, 9, libc::AF_INET),
    ];
    program.extend(ip6);
    program.extend(ip4);
    program.extend([
        instruction(STORE_WORD, FRAME, 0, -4, 0),
        instruction(LOAD_MAP, ARGUMENT_1, PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(COPY, ARGUMENT_2, FRAME, 0, 0),
        instruction(ADD, ARGUMENT_2, 0, 0, -4),
        instruction(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        instruction(JUMP_IF_ZERO, RESULT, 0, TO_END, 0),
        instruction(COPY, SOCKET, RESULT, 0, 0),
        instruction(COPY, ARGUMENT_1, CONTEXT, 0, 0),
        instruction(COPY, ARGUMENT_2, SOCKET, 0, 0),
        instruction(SET, ARGUMENT_3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, SK_ASSIGN),
        instruction(COPY, ARGUMENT_1, SOCKET, 0, 0),
        instruction(CALL, 0, 0, 0, SK_RELEASE),
    ]);
    for (instruction, remaining) in program.iter_mut().rev().zip(0..) {
        if instruction.offset == TO_END {
            instruction.offset = remaining;
        }
    }
    program.extend([
        instruction(SET, RESULT, 0, 0, SK_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    program
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | (source << 4),
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_leads_into_the_program() {
        let program = program(3);
        let end = i16::try_from(program.len() - 2).expect("a short program");
        for (instruction, next) in program.iter().zip(1..) {
            match instruction.code {
                JUMP => assert_eq!(
                    program[usize::try_from(next + instruction.offset).unwrap()].code,
                    STORE_WORD
                ),
                JUMP_IF_EQUAL => {
                    let target = program[usize::try_from(next + instruction.offset).unwrap()];
                    assert_eq!((target.code, target.offset), (LOAD_WORD, LOCAL_IP4));
                }
                JUMP_UNLESS_EQUAL | JUMP_IF_ZERO => assert_eq!(next + instruction.offset, end),
                _ => {}
            }
        }
    }
}
