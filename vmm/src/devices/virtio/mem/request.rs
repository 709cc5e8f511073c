//! What a driver asks for, and what it is answered (virtio 1.3, section 5.15.6): pure, and all of it hostile.

/// The length of a request in bytes, whatever it asks for.
pub const REQUEST_BYTES: usize = 24;

/// The length of a response in bytes.
pub const RESPONSE_BYTES: usize = 10;

/// Blocks, one behind the other. There may be no such blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// The guest-physical address of the first.
    pub address: u64,
    /// How many.
    pub count: u16,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Have memory behind these blocks.
    Plug(Blocks),
    /// Have none.
    Unplug(Blocks),
    /// Have none behind any block.
    UnplugAll,
    /// Say whether these are plugged.
    State(Blocks),
}

impl Request {
    const PLUG: u16 = 0;
    const UNPLUG: u16 = 1;
    const UNPLUG_ALL: u16 = 2;
    const STATE: u16 = 3;

    /// Reads one. None if it is of a kind that there is not.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let [kind, kind_high, _, _, _, _, _, _, rest @ ..] = bytes;
        let [a, b, c, d, e, f, g, h, count, count_high, ..] = rest;
        let blocks = Blocks {
            address: u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            count: u16::from_le_bytes([*count, *count_high]),
        };
        match u16::from_le_bytes([*kind, *kind_high]) {
            Self::PLUG => Some(Self::Plug(blocks)),
            Self::UNPLUG => Some(Self::Unplug(blocks)),
            Self::UNPLUG_ALL => Some(Self::UnplugAll),
            Self::STATE => Some(Self::State(blocks)),
            _ => None,
        }
    }
}

/// Whether blocks are plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum State {
    /// All of them.
    Plugged = 0,
    /// None of them.
    Unplugged = 1,
    /// Some of them.
    Mixed = 2,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// It is done.
    Done,
    /// It is not done: the guest would have more than it is to have.
    Refused,
    /// It is not done: the host could not, and may be asked again.
    Busy,
    /// It is not done: the request makes no sense.
    Error,
    /// To [`Request::State`].
    State(State),
}

impl Response {
    const ACK: u16 = 0;
    const NACK: u16 = 1;
    const BUSY: u16 = 2;
    const ERROR: u16 = 3;

    /// As the driver reads it.
    pub fn bytes(self) -> [u8; RESPONSE_BYTES] {
        let (kind, state) = match self {
            Self::Done => (Self::ACK, 0),
            Self::Refused => (Self::NACK, 0),
            Self::Busy => (Self::BUSY, 0),
            Self::Error => (Self::ERROR, 0),
            Self::State(state) => (Self::ACK, state as u16),
        };
        let mut bytes = [0; RESPONSE_BYTES];
        let [low, high, .., state_low, state_high] = &mut bytes;
        [*low, *high] = kind.to_le_bytes();
        [*state_low, *state_high] = state.to_le_bytes();
        bytes
    }
}
