//! Integration tests of bulkhead and the testbed they run in.

pub mod bench;
pub mod conformance;
pub mod harness;
pub mod l1;
pub mod pattern;
pub mod pvh;
pub mod runner;
pub mod session;
pub mod shim_options;
pub mod testbed;
