//! A container's life on the host: its stand-in, its streams, its terminal.

mod console;
pub mod control;
mod creation;
mod description;
mod exec;
mod failure;
mod foreground;
pub mod hooks;
mod monitor;
mod notice;
mod pid_file;
mod place;
mod removal;
mod shares;
mod standard_streams;
mod stats;
mod stdio;
mod streams;
mod terminal;

pub use console::{Console, HandOverError, hand_over};
pub use creation::{Creation, CreationError, Presence, Standin};
pub use description::describe;
pub use exec::{Detached, Exec, ExecError, Foreground};
pub use failure::{Cause, Failure, Stage};
pub use foreground::RunEnd;
pub use monitor::{Attachment, Monitor, NetworkError, Stopwatch};
pub use notice::{Notice, Notices, Received};
pub use pid_file::{PidFileError, write as write_pid_file};
pub use place::{Place, PlaceError};
pub use removal::{RemovalError, clean_up, dispose_of, remove};
pub use shares::{ShareError, Shares, shared_namespaces};
pub use standard_streams::{GivenStreams, StandardStreams};
pub use stats::Stats;
pub use stdio::Endpoint;
pub use streams::Streams;
pub use terminal::{Keyboard, Terminal, TerminalError, UNKNOWN_SIZE};
