//! The bench inside L1: its pid 1.

mod beside;
mod boot;
mod launch;
mod log;
mod marks;
mod measure;
mod memory;
mod processes;
mod rest;
mod task;

pub use boot::run;
