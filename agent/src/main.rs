//! The guest's agent.
fn main() {}
