//! What containers under test run where busybox has nothing for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::ptr;
use std::{env, hint};

use bulkhead_tests::pattern;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept, bind, connect, listen, socket,
};
use nix::unistd::{ForkResult, fork, pause};

const USAGE: &str = "workload burst BYTES | hog MIB | fork COUNT | crash | vsock COUNT";

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
