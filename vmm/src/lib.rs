//! The bulkhead VMM: one jailed process that runs one KVM microVM.

pub mod config;
pub mod control;
pub mod devices;
pub mod event_loop;
pub mod memory;
pub mod report;
