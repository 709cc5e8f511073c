//! The first serial port: the guest's console, output only.

use std::io;

use vm_superio::Trigger;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::console::ConsoleWriter;

/// A 16550's registers in front of the console.
pub type Serial = vm_superio::Serial<InterruptLine, NoEvents, ConsoleWriter>;

/// The interrupt line of the port.
pub struct InterruptLine(pub EventFd);

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A serial port with that interrupt line.
pub fn new(interrupt: EventFd, console: ConsoleWriter) -> Serial {
    Serial::new(InterruptLine(interrupt), console)
}
