use proptest::prelude::*;

use super::*;

/// Program header number one of [`crate::testing::executable`] starts here.
const PROGRAM_HEADER: usize = 64;

use crate::testing::executable;

#[test]
fn a_static_executable_is_taken() {
    let bytes = executable(3000);
    assert_eq!(Agent::from_bytes(bytes.clone()).expect("fit").bytes(), bytes);
}

#[test]
fn what_a_guest_cannot_run_is_refused_by_name() {
    let with = |at: usize, value: u8| {
        let mut bytes = executable(3000);
        bytes[at] = value;
        Agent::from_bytes(bytes).expect_err("unfit")
    };
    assert_eq!(with(0, b'!'), Unfit::NotElf);
    assert_eq!(with(4, 1), Unfit::NotElf, "ELFCLASS32 has a shorter header");
    assert_eq!(with(16, 1), Unfit::NotExecutable, "ET_REL");
    assert_eq!(with(16, 4), Unfit::NotExecutable, "ET_CORE");
    assert_eq!(with(18, 183), Unfit::WrongMachine, "EM_AARCH64");
    assert_eq!(with(PROGRAM_HEADER, 3), Unfit::Dynamic, "PT_INTERP");
    assert_eq!(Agent::from_bytes(Vec::new()).expect_err("empty"), Unfit::NotElf);
    assert_eq!(
        Agent::from_bytes(b"#!/bin/sh\n".to_vec()).expect_err("script"),
        Unfit::NotElf
    );
}

#[test]
fn a_truncated_executable_is_refused() {
    let mut bytes = executable(3000);
    bytes.truncate(2999);
    assert_eq!(Agent::from_bytes(bytes).expect_err("cut short"), Unfit::NotElf);
}

#[test]
fn errors_name_the_file() {
    let missing = Agent::read(Path::new("/nonexistent/agent")).expect_err("no such file");
    assert_eq!(
        missing.to_string(),
        "cannot read the agent /nonexistent/agent: No such file or directory (os error 2)"
    );
    let unfit = Agent::read(Path::new("/proc/version")).expect_err("text");
    assert_eq!(
        unfit.to_string(),
        "/proc/version cannot be the guest's init: it is not a whole ELF file"
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), header in any::<bool>()) {
        if header {
            let start = executable(128);
            let len = bytes.len().min(20);
            bytes[..len].copy_from_slice(&start[..len]);
        }
        let _ = Agent::from_bytes(bytes);
    }
}
