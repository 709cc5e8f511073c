//! The device as a whole: a driver made of guest memory on one side, Unix sockets on the other.

mod driver;
mod hostile;
mod model;
mod protocol;
mod soak;
