//! x86-64: how a guest's processors, memory and interrupts are laid out, and how it is started.

pub mod boot;
pub mod cpuid;
pub mod kernel;
pub mod layout;
pub mod machine;
pub mod mptable;
pub mod msrs;
pub mod registers;

#[cfg(test)]
mod tests;
