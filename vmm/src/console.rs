//! What the guest has printed: its last lines, for reports.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How many bytes are kept.
pub const CAPACITY: usize = 64 << 10;

/// The tail of the guest's console. Clones share it.
#[derive(Clone, Default)]
pub struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// The lines that are kept, oldest first, without their ends. What is not UTF-8 is replaced.
    pub fn lines(&self) -> Vec<String> {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines(tail.make_contiguous())
    }

    /// Like [`Console::lines`], but nothing instead of waiting when another thread is writing: for a panic's report,
    /// where that thread may be the one that panics.
    pub fn try_lines(&self) -> Vec<String> {
        self.0
            .try_lock()
            .map(|mut tail| lines(tail.make_contiguous()))
            .unwrap_or_default()
    }

    fn append(&self, bytes: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = (tail.len() + bytes.len())
            .saturating_sub(CAPACITY)
            .min(tail.len());
        tail.drain(..excess);
        tail.extend(bytes.iter().rev().take(CAPACITY).rev());
    }
}

fn lines(tail: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(tail);
    let mut lines: Vec<_> = text
        .split('\n')
        .map(|line| line.trim_end_matches('\r').to_owned())
        .collect();
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    if tail.len() == CAPACITY && lines.len() > 1 {
        // The oldest line has most likely lost its beginning.
        lines.remove(0);
    }
    lines
}

/// Where the serial port's output goes: the tail, and a descriptor where one is given.
pub struct ConsoleWriter {
    tail: Console,
    copy: Option<File>,
}

impl ConsoleWriter {
    /// Writes to `tail` and to `copy`. A reader of the copy that stops reading stops the guest's processor.
    pub fn new(tail: Console, copy: Option<File>) -> Self {
        ConsoleWriter { tail, copy }
    }
}

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.append(bytes);
        if let Some(copy) = &mut self.copy
            && copy.write_all(bytes).is_err()
        {
            // Nobody reads it any more.
            self.copy = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(writes: &[&[u8]]) -> Console {
        let console = Console::default();
        let mut writer = ConsoleWriter::new(console.clone(), None);
        for bytes in writes {
            writer.write_all(bytes).unwrap();
        }
        console
    }

    #[test]
    fn lines_come_without_their_ends() {
        let console = console(&[b"one\r\n", b"tw", b"o\n\nfour"]);
        assert_eq!(console.lines(), ["one", "two", "", "four"]);
        assert_eq!(console.try_lines(), console.lines());
    }

    #[test]
    fn nothing_printed_is_no_line() {
        assert!(console(&[]).lines().is_empty());
    }

    #[test]
    fn foreign_bytes_are_replaced() {
        assert_eq!(console(&[b"a\xffb\n"]).lines(), ["a\u{fffd}b"]);
    }

    #[test]
    fn the_oldest_bytes_go_first_and_whole_lines_stay() {
        let console = Console::default();
        for n in 0..20_000 {
            console.append(format!("line {n}\n").as_bytes());
        }
        let lines = console.lines();
        assert_eq!(lines.last().unwrap(), "line 19999");
        let first: usize = lines[0].strip_prefix("line ").unwrap().parse().unwrap();
        assert_eq!(lines.len(), 20_000 - first);
        assert!(lines.iter().map(|line| line.len() + 1).sum::<usize>() <= CAPACITY);
    }

    #[test]
    fn one_write_larger_than_the_capacity_keeps_its_end() {
        let mut bytes = vec![b'x'; CAPACITY + 10];
        bytes.extend_from_slice(b"\nend\n");
        assert_eq!(console(&[b"before\n", &bytes]).lines(), ["end"]);
    }

    #[test]
    fn a_panicking_writer_does_not_block_the_report() {
        let console = console(&[b"line\n"]);
        let held = console.0.lock().unwrap();
        assert!(console.try_lines().is_empty());
        drop(held);
    }

    #[test]
    fn a_copy_goes_to_the_descriptor_until_nobody_reads() {
        let (mut reader, writer) = io::pipe().unwrap();
        let console = Console::default();
        let mut writer = ConsoleWriter::new(
            console.clone(),
            Some(File::from(std::os::fd::OwnedFd::from(writer))),
        );
        writer.write_all(b"ab").unwrap();
        let mut got = [0; 2];
        io::Read::read_exact(&mut reader, &mut got).unwrap();
        assert_eq!(&got, b"ab");
        drop(reader);
        writer.write_all(b"c").unwrap();
        assert!(writer.copy.is_none());
        assert_eq!(console.lines(), ["abc"]);
    }
}
