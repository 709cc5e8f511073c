//! What containers under test run where busybox has nothing for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::ptr;
use std::time::Duration;
use std::{env, hint};

use bulkhead_tests::pattern;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept, bind, connect, listen, socket,
};
use nix::unistd::{ForkResult, fork, pause};

const USAGE: &str = "workload burst BYTES | hog MIB | fork COUNT | crash | vsock COUNT \
                     | tcp-send ADDRESS BYTES | tcp-receive ADDRESS BYTES | udp ADDRESS | mtu ADDRESS \
                     | watch FOLDER";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect(USAGE);
    let result = match args[..] {
        ["burst", bytes] => burst(number(bytes)),
        ["hog", mib] => hog(number(mib)),
        ["fork", count] => fork_up_to(number(count)),
        ["crash"] => crash(),
        ["vsock", count] => echo_over_vsock(number(count)),
        ["tcp-send", address, bytes] => send(address, number(bytes)),
        ["tcp-receive", address, bytes] => receive(address, number(bytes)),
        ["udp", address] => ask_over_udp(address),
        ["mtu", address] => print_mtu(address),
        ["watch", folder] => watch(folder),
        _ => Err(io::Error::other(USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workload: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes so many bytes of the pattern as fast as they are taken, and ends at once.
fn burst(bytes: usize) -> io::Result<()> {
    // Not `io::stdout`: its buffer looks for ends of lines.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    pattern::write(&mut stdout, bytes)
}

/// Prints the names that are moved into a folder, for ever.
fn watch(folder: &str) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::empty())?;
    inotify.add_watch(folder, AddWatchFlags::IN_MOVED_TO)?;
    println!("watching");
    loop {
        for event in inotify.read_events()? {
            println!("{}", event.name.unwrap_or_default().display());
        }
    }
}

/// Takes so much memory, and keeps it until stdin ends.
fn hog(mib: usize) -> io::Result<()> {
    let memory = vec![1u8; mib << 20];
    println!("has {mib} MiB");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    hint::black_box(memory);
    Ok(())
}

/// Starts up to `count` processes that stay, and says how many could be.
fn fork_up_to(count: usize) -> io::Result<()> {
    for done in 0..count {
        // SAFETY: there is one thread, so that the child may do what it likes.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => loop {
                pause();
            },
            Err(errno) => {
                println!("{done} processes, then {errno:?}");
                return Ok(());
            }
        }
    }
    println!("{count} processes");
    Ok(())
}

/// Dies of SIGSEGV.
fn crash() -> io::Result<()> {
    let nowhere = hint::black_box(ptr::without_provenance_mut::<u8>(8));
    // SAFETY: there is nothing safe about it; the fault is the purpose, and the page at 0 is never mapped.
    unsafe { ptr::write_volatile(nowhere, 1) };
    Ok(())
}

/// Sends so many bytes of the pattern.
fn send(address: &str, bytes: usize) -> io::Result<()> {
    pattern::write(&mut TcpStream::connect(address)?, bytes)
}

/// Takes the pattern to its end, which has to be after so many bytes.
fn receive(address: &str, bytes: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut checker = pattern::Checker::new();
    // What `io::copy` takes at a time is little.
    let mut buffer = vec![0; 1 << 18];
    while let count @ 1.. = stream.read(&mut buffer)? {
        checker.write_all(&buffer[..count])?;
    }
    match checker.finish() {
        Ok(length) if length == bytes => Ok(()),
        result => Err(io::Error::other(format!("{result:?} of {bytes} bytes"))),
    }
}

/// Sends datagrams until one is answered, and prints the answer. The network may lose some.
fn ask_over_udp(address: &str) -> io::Result<()> {
    let socket = udp_socket(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = [0; 2000];
    for _ in 0..20 {
        socket.send(b"question")?;
        if let Ok(length) = socket.recv(&mut answer) {
            println!("{}", String::from_utf8_lossy(&answer[..length]));
            return Ok(());
        }
    }
    Err(io::Error::other("no answer"))
}

fn udp_socket(address: &str) -> io::Result<UdpSocket> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket)
}

/// Prints the MTU of the way to an address, which is its route's or its interface's.
fn print_mtu(address: &str) -> io::Result<()> {
    let socket = udp_socket(address)?;
    let (level, name) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mut mtu: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&mtu)).expect("a small number");
    let value = ptr::from_mut(&mut mtu).cast();
    // SAFETY: `value` is valid for writing so many bytes.
    if unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    println!("{address} mtu {mtu}");
    Ok(())
}

/// Opens so many streams to the host's port 7000, takes as many on its own, and sends back on each what came on it, once
/// the host has ended its side of every one.
fn echo_over_vsock(count: usize) -> io::Result<()> {
    const PORT: u32 = 7000;
    let new = || {
        socket(
            AddressFamily::Vsock,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
    };
    let listener = new()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, PORT))?;
    listen(&listener, Backlog::MAXCONN)?;
    let mut streams: Vec<File> = Vec::new();
    for _ in 0..count {
        let stream = new()?;
        connect(stream.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, PORT))?;
        streams.push(stream.into());
    }
    for _ in 0..count {
        let stream = accept(listener.as_raw_fd())?;
        // SAFETY: accept has just made it.
        streams.push(unsafe { OwnedFd::from_raw_fd(stream) }.into());
    }
    let mut messages = Vec::new();
    for stream in &mut streams {
        let mut message = Vec::new();
        stream.read_to_end(&mut message)?;
        messages.push(message);
    }
    for (stream, message) in streams.iter_mut().zip(messages) {
        stream.write_all(&message)?;
    }
    Ok(())
}
