//! The I/O ports: a serial port and a keyboard controller, and nothing behind the others.

use std::sync::{Mutex, PoisonError};

use super::reset::KeyboardController;
use super::serial::Serial;

const SERIAL: u16 = 0x3f8;
const SERIAL_END: u16 = SERIAL + 7;
const KEYBOARD: u16 = 0x60;
const KEYBOARD_END: u16 = KEYBOARD + 4;

/// The devices at I/O ports.
pub struct Ports {
    serial: Mutex<Serial>,
    keyboard: Mutex<KeyboardController>,
}

impl Ports {
    /// These devices at their customary ports.
    pub fn new(serial: Serial, keyboard: KeyboardController) -> Self {
        Ports {
            serial: Mutex::new(serial),
            keyboard: Mutex::new(keyboard),
        }
    }

    /// The guest reads: bytes of one access, or of a string instruction.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        // What a bus reads where nothing answers.
        data.fill(0xff);
        match port {
            SERIAL..=SERIAL_END => {
                let register = register(port, SERIAL);
                let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
                for byte in data {
                    *byte = serial.read(register);
                }
            }
            KEYBOARD | KEYBOARD_END => {
                let register = register(port, KEYBOARD);
                let mut keyboard = self.keyboard.lock().unwrap_or_else(PoisonError::into_inner);
                for byte in data {
                    *byte = keyboard.read(register);
                }
            }
            _ => {}
        }
    }

    /// The guest writes.
    pub fn write(&self, port: u16, data: &[u8]) {
        match port {
            SERIAL..=SERIAL_END => {
                let register = register(port, SERIAL);
                let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
                for byte in data {
                    // It fails when the input FIFO is full in loopback mode, or the interrupt's counter: the guest's
                    // own affair, and the byte is lost as on a real port.
                    let _ = serial.write(register, *byte);
                }
            }
            KEYBOARD | KEYBOARD_END => {
                let register = register(port, KEYBOARD);
                let mut keyboard = self.keyboard.lock().unwrap_or_else(PoisonError::into_inner);
                for byte in data {
                    let Ok(()) = keyboard.write(register, *byte);
                }
            }
            _ => {}
        }
    }
}

/// The number of a device's register, counted from the device's first port.
fn register(port: u16, first: u16) -> u8 {
    u8::try_from(port - first).expect("a device has a handful of ports")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::GuestAddress;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::config::MemoryBacking;
    use crate::console::{Console, ConsoleWriter};
    use crate::devices::{reset, serial};
    use crate::end::End;
    use crate::memory;
    use crate::report::Outcome;

    fn ports() -> (Ports, Console, End) {
        let (console, end) = (Console::default(), End::new().unwrap());
        let memory = memory::allocate(&[(GuestAddress(0), 1 << 20)], MemoryBacking::default()).unwrap();
        let serial = serial::new(
            EventFd::new(EFD_NONBLOCK).unwrap(),
            ConsoleWriter::new(console.clone(), None),
        );
        let ports = Ports::new(serial, reset::new(memory, console.clone(), end.clone()));
        (ports, console, end)
    }

    #[test]
    fn the_serial_port_prints() {
        let (ports, console, _) = ports();
        ports.write(SERIAL, b"string instructions come as a whole\n");
        ports.write(SERIAL + 2, b"not data");
        assert_eq!(console.lines(), ["string instructions come as a whole"]);
    }

    #[test]
    fn nothing_answers_at_other_ports() {
        let (ports, _, end) = ports();
        let mut data = [0; 4];
        ports.read(0xcf8, &mut data);
        assert_eq!(data, [0xff; 4]);
        ports.write(0x65, &[0xfe]);
        assert!(!end.is_reached());
    }

    #[test]
    fn the_reset_line_is_at_port_0x64() {
        let (ports, _, end) = ports();
        ports.write(0x64, &[0xfe]);
        assert_eq!(end.outcome(), Some(&Outcome::PowerOff));
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in prop::collection::vec((any::<bool>(), prop_oneof![any::<u16>(), 0x3f8u16..0x400, 0x60u16..0x65],
                                                               prop::collection::vec(any::<u8>(), 0..9)), 0..200)) {
            let (ports, _, _) = ports();
            for (write, port, mut data) in accesses {
                if write { ports.write(port, &data) } else { ports.read(port, &mut data) }
            }
        }
    }
}
