//! A container's life on the host: its stand-in, its streams, its terminal.

mod failure;
mod foreground;
pub mod hooks;
mod monitor;
mod stdio;
mod streams;
mod terminal;

pub use failure::{Cause, Failure, Stage};
pub use foreground::Foreground;
pub use monitor::{Monitor, clean_up};
pub use stdio::Endpoint;
pub use streams::Streams;
pub use terminal::{Keyboard, Terminal, TerminalError};
