//! The bulkhead VMM: one jailed process that runs one KVM microVM.

#![warn(
    clippy::cast_lossless,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

pub mod arch;
pub mod config;
pub mod console;
pub mod control;
pub mod devices;
pub mod end;
pub mod event_loop;
pub mod failure;
pub mod growth;
pub mod hotplug;
pub mod inherited;
pub mod jail;
pub mod kick;
pub mod kvm;
pub mod launch;
pub mod memory;
pub mod pause;
pub mod probe;
pub mod report;
pub mod resources;
pub mod vcpu;
pub mod vcpus;
pub mod vm;
pub mod wiring;
