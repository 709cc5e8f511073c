//! Pid 1 of L1.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::wait::wait;
use nix::time::{ClockId, clock_settime};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, sethostname};

use super::{files, modules};
use crate::testbed::channel::{Frame, Setup};

/// Where the agent listens; QEMU's user network forwards one port of the host to it.
pub const ADDRESS: &str = "10.0.2.15:7";

/// Printed on the console when L1's state may be saved.
pub const SAVE_POINT: &str = "bulkhead-l1: waiting for the host";

/// Boots L1 and reaps orphans for ever. When this returns, the kernel panics and QEMU ends.
///
/// # Errors
/// What kept L1 from booting.
pub fn run() -> io::Result<()> {
    files::mount_early()?;
    take_console()?;
    modules::load_all()?;
    configure_network()?;
    let listener = TcpListener::bind(ADDRESS)?;
    println!("{SAVE_POINT}");

    let (mut host, _) = listener.accept()?;
    let token = match Frame::read(&mut host)? {
        Frame::Setup(setup) => finish(&setup).map(|()| setup.token),
        other => Err(io::Error::other(format!("expected a setup, got {other:?}"))),
    };
    match token {
        Ok(token) => start_agent(listener, &token, &mut host)?,
        Err(error) => {
            Frame::Failed(error.to_string()).write(&mut host)?;
            return Err(error);
        }
    }
    reap()
}

/// Makes the console the standard streams.
///
/// # Errors
/// There is none.
pub fn take_console() -> io::Result<()> {
    let console = File::options().read(true).write(true).open("/dev/console")?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    Ok(())
}

fn configure_network() -> io::Result<()> {
    let (address, _) = ADDRESS.rsplit_once(':').expect("an address and a port");
    let interface = fs::read_dir("/sys/class/net")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.starts_with('e'))
        .ok_or_else(|| io::Error::other("no Ethernet interface"))?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "set", &interface, "up"])?;
    ip(&["address", "add", &format!("{address}/24"), "dev", &interface])
}

fn ip(args: &[&str]) -> io::Result<()> {
    let status = Command::new("/busybox").arg("ip").args(args).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("ip {}: {status}", args.join(" "))))
    }
}

fn finish(setup: &Setup) -> io::Result<()> {
    clock_settime(
        ClockId::CLOCK_REALTIME,
        TimeSpec::from_duration(Duration::from_nanos(setup.time_ns)),
    )?;
    stir_random(&setup.entropy)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    files::enter_host_tree(setup, release.trim())?;
    sethostname("l1")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// Mixes the host's bytes in and makes the kernel draw from them at once.
fn stir_random(entropy: &[u8]) -> io::Result<()> {
    nix::ioctl_none!(reseed, b'R', 7);
    let mut device = File::options().write(true).open("/dev/urandom")?;
    device.write_all(entropy)?;
    // SAFETY: RNDRESEEDCRNG takes no argument and `device` is open.
    unsafe { reseed(device.as_raw_fd()) }?;
    Ok(())
}

/// Starts the agent as a process of its own, as pid 1 waits for everybody's children. It gets the listener as its
/// standard input.
fn start_agent(listener: TcpListener, token: &str, host: &mut TcpStream) -> io::Result<()> {
    Command::new("/proc/self/exe")
        .args(["agent", token])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .spawn()?;
    Frame::Ready.write(host)
}

fn reap() -> io::Result<()> {
    loop {
        // Without children there is no agent, and without an agent no use for L1.
        wait()?;
    }
}
