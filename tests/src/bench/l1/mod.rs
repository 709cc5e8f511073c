//! The bench inside L1: its pid 1.

mod boot;
mod launch;
mod measure;
mod memory;

pub use boot::run;
