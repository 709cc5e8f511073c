//! The wire between the host and the agent in L1: one TCP connection carries one command.
//!
//! A frame is one byte of kind, the length of what follows as a little-endian `u32`, and that many bytes. Structured
//! frames are JSON.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Longest frame that is read, bytes: far above what either side sends.
const MAX_FRAME: u32 = 1 << 24;

/// The first frame that a new L1 gets, once: what it could not know when its state was saved.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    /// What every later [`Run`] must name; keeps other users of the host out.
    pub token: String,
    /// The host's clock, nanoseconds since the epoch.
    pub time_ns: u64,
    /// Bytes for the random number generator: L1s restored from one state must not draw the same numbers.
    pub entropy: Vec<u8>,
    /// The folder that is shared read-write, at the same path as on the host.
    pub work_tree: String,
    /// Host folder with this kernel's modules, bound to /lib/modules/….
    pub modules: String,
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Rows, characters.
    pub rows: u16,
    /// Columns, characters.
    pub columns: u16,
}

/// A command to run in L1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The token of [`Setup`].
    pub token: String,
    /// Program and arguments; the program is looked up in L1's `PATH`.
    pub args: Vec<String>,
    /// Variables added to L1's environment.
    pub env: Vec<(String, String)>,
    /// Working folder; `/` when unset.
    pub dir: Option<String>,
    /// Give the command a terminal of this size instead of pipes.
    pub terminal: Option<WindowSize>,
}

/// One frame.
#[derive(Debug)]
pub enum Frame {
    /// Host to L1, once: finish booting.
    Setup(Setup),
    /// Host to L1, first frame of a command.
    Run(Run),
    /// Host to L1: bytes for standard input; none means end of file.
    Stdin(Vec<u8>),
    /// Host to L1: the terminal's new size.
    Resize(WindowSize),
    /// L1 to host: set up, commands are welcome.
    Ready,
    /// L1 to host: bytes of standard output.
    Stdout(Vec<u8>),
    /// L1 to host: bytes of standard error.
    Stderr(Vec<u8>),
    /// L1 to host: the command ended; its code, or 128 plus the signal.
    Exit(i32),
    /// L1 to host: why L1 could not do as told.
    Failed(String),
}

impl Frame {
    /// Writes the frame with one `write`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let json;
        let (kind, data): (u8, &[u8]) = match self {
            Self::Setup(setup) => {
                json = serde_json::to_vec(setup)?;
                (1, &json)
            }
            Self::Run(run) => {
                json = serde_json::to_vec(run)?;
                (2, &json)
            }
            Self::Stdin(data) => (3, data),
            Self::Resize(size) => {
                json = serde_json::to_vec(size)?;
                (4, &json)
            }
            Self::Ready => (5, &[]),
            Self::Stdout(data) => (6, data),
            Self::Stderr(data) => (7, data),
            Self::Exit(code) => {
                json = code.to_le_bytes().to_vec();
                (8, &json)
            }
            Self::Failed(why) => (9, why.as_bytes()),
        };
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(5 + data.len());
        frame.push(kind);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(data);
        to.write_all(&frame)
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// Those of the reader, and `InvalidData` for what is no frame.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; 5];
        from.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let length = u32::from_le_bytes(length);
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if length > MAX_FRAME {
            return Err(invalid("frame too long"));
        }
        let mut data = vec![0; length as usize];
        from.read_exact(&mut data)?;
        Ok(match kind {
            1 => Self::Setup(serde_json::from_slice(&data)?),
            2 => Self::Run(serde_json::from_slice(&data)?),
            3 => Self::Stdin(data),
            4 => Self::Resize(serde_json::from_slice(&data)?),
            5 => Self::Ready,
            6 => Self::Stdout(data),
            7 => Self::Stderr(data),
            8 => Self::Exit(i32::from_le_bytes(
                data.try_into().map_err(|_| invalid("exit code"))?,
            )),
            9 => Self::Failed(String::from_utf8_lossy(&data).into_owned()),
            _ => return Err(invalid("unknown kind of frame")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(frame: &Frame) -> Frame {
        let mut wire = Vec::new();
        frame.write(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        let read = Frame::read(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes left", rest.len());
        read
    }

    #[test]
    fn a_command_survives_the_wire() {
        let run = Run {
            token: "t".into(),
            args: vec!["sh".into(), "-c".into(), "echo \"a b\"\n".into()],
            env: vec![("K".into(), "a=b".into())],
            dir: Some("/tmp".into()),
            terminal: Some(WindowSize {
                rows: 24,
                columns: 80,
            }),
        };
        assert!(matches!(there_and_back(&Frame::Run(run.clone())), Frame::Run(read) if read == run));
    }

    #[test]
    fn bytes_and_codes_survive_the_wire() {
        assert!(matches!(there_and_back(&Frame::Stdout(vec![0, 255])), Frame::Stdout(d) if d == [0, 255]));
        assert!(matches!(there_and_back(&Frame::Stdin(vec![])), Frame::Stdin(d) if d.is_empty()));
        assert!(matches!(there_and_back(&Frame::Exit(-7)), Frame::Exit(-7)));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Frame::read(&mut [99u8, 0, 0, 0, 0].as_slice()).is_err());
        assert!(Frame::read(&mut [6u8, 255, 255, 255, 255].as_slice()).is_err());
        assert!(Frame::read(&mut [8u8, 1, 0, 0, 0, 1].as_slice()).is_err());
        assert!(
            Frame::read(&mut [6u8, 2, 0, 0, 0, 1].as_slice()).is_err(),
            "cut short"
        );
    }
}
