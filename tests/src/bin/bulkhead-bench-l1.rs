//! Pid 1 of the bench's L1.

use std::io;

fn main() -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other(
            "this is the pid 1 of the bench's L1; it is not run by hand",
        ));
    }
    bulkhead_tests::bench::l1::run()
}
