//! `bulkhead-rootfs`: makes the guest's root file system.
fn main() {}
