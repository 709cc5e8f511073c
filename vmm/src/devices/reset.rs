//! The keyboard controller's reset line: the one way in which a guest without ACPI ends, be it by order or in a panic.
//!
//! The kernel's parameters in [`PARAMETERS`] make the two distinguishable: before it pulls the line, Linux writes to the
//! BIOS's reset flag whether the reset is a warm one (arch/x86/kernel/reboot.c), and only a panic's is.

use vm_memory::Bytes;
use vm_superio::{I8042Device, Trigger};

use crate::arch::x86_64::layout::{RESET_FLAG, WARM_RESET};
use crate::console::Console;
use crate::end::End;
use crate::memory::GuestMemory;
use crate::report::Outcome;

/// What the kernel must be told for this to work: reset by the keyboard controller; at once after a panic; and a warm
/// reset then.
pub const PARAMETERS: &str = "reboot=k,panic_warm panic=-1";

/// The keyboard controller, of which only the reset line is there.
pub type KeyboardController = I8042Device<ResetLine>;

/// The reset line.
pub struct ResetLine {
    memory: GuestMemory,
    console: Console,
    end: End,
}

/// A keyboard controller whose reset line brings `end`.
pub fn new(memory: GuestMemory, console: Console, end: End) -> KeyboardController {
    I8042Device::new(ResetLine { memory, console, end })
}

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        let flag: u16 = self.memory.read_obj(RESET_FLAG).unwrap_or_default();
        self.end.reach(if flag == WARM_RESET {
            Outcome::Panic {
                message: panic_message(&self.console.lines()),
            }
        } else {
            Outcome::PowerOff
        });
        Ok(())
    }
}

/// The kernel's own words for its panic.
fn panic_message(lines: &[String]) -> String {
    const MARK: &str = "Kernel panic - not syncing: ";
    let told = lines
        .iter()
        .rev()
        .find_map(|line| line.split_once(MARK))
        .map(|(_, message)| message.trim());
    match told {
        Some(message) if !message.is_empty() => message.to_owned(),
        _ => "the guest's kernel panicked and its console does not say why".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::MemoryBacking;
    use crate::console::ConsoleWriter;
    use crate::memory;
    use vm_memory::GuestAddress;

    const COMMAND_PORT: u8 = 4;
    const PULSE_RESET: u8 = 0xfe;

    fn outcome(flag: u16, printed: &str) -> Option<Outcome> {
        let memory = memory::allocate(&[(GuestAddress(0), 1 << 20)], MemoryBacking::default()).unwrap();
        memory.write_obj(flag, RESET_FLAG).unwrap();
        let console = Console::default();
        ConsoleWriter::new(console.clone(), None)
            .write_all(printed.as_bytes())
            .unwrap();
        let end = End::new().unwrap();
        let mut controller = new(memory, console, end.clone());
        controller.write(COMMAND_PORT, 0xd1).unwrap();
        controller.write(0, PULSE_RESET).unwrap();
        assert!(!end.is_reached());
        assert_eq!(
            controller.read(COMMAND_PORT) & 2,
            0,
            "the guest waits for an empty input buffer"
        );
        controller.write(COMMAND_PORT, PULSE_RESET).unwrap();
        end.outcome().cloned()
    }

    #[test]
    fn a_cold_reset_is_a_power_off() {
        assert_eq!(
            outcome(0, "Kernel panic - not syncing: quoted by somebody\n"),
            Some(Outcome::PowerOff)
        );
    }

    #[test]
    fn a_warm_reset_is_a_panic_in_the_kernels_words() {
        let printed =
            "a\r\n[    1.0] Kernel panic - not syncing: No working init found.\r\n[    1.1] CPU: 0\r\n";
        let message = "No working init found.".to_owned();
        assert_eq!(outcome(WARM_RESET, printed), Some(Outcome::Panic { message }));
    }

    #[test]
    fn a_silent_panic_is_still_one() {
        let Some(Outcome::Panic { message }) = outcome(WARM_RESET, "quiet\n") else {
            panic!("not a panic")
        };
        assert!(message.contains("does not say why"));
    }
}
