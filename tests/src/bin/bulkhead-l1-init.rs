//! The only program of L1's initramfs: pid 1, and the agent when called as `bulkhead-l1-init agent TOKEN` with the
//! listening socket as its standard input.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

use bulkhead_tests::l1::{agent, boot};

fn main() -> io::Result<()> {
    if std::process::id() == 1 {
        return boot::run();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [verb, token] if verb == "agent" => {
            let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
            agent::serve(&listener, token)
        }
        _ => Err(io::Error::other(
            "this is the pid 1 of the testbed's L1; it is not run by hand",
        )),
    }
}
