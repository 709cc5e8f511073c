//! What the bench has containers and guests do with files, disks and connections. A crate of its own, so that the program is small and
//! built as the product is.
//!
//! The program runs in a container, or as the first program of a guest without an agent, and takes the time itself: in virtual time
//! that is what guest and host executed together meanwhile. It prints `took` and the nanoseconds in hexadecimal.
//!
//! - `file`: reads and writes a file or a disk
//! - `tree`: looks at every file of a tree
//! - `stream`: bytes over standard input and output
//! - `tcp`: bytes over the network

mod file;
mod stream;
pub mod tcp;
mod tree;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use nix::mount::{MsFlags, mount};
use nix::unistd::pause;

/// What to do.
#[derive(Debug, Parser)]
#[command(name = "bulkhead-bench-io")]
pub enum Operation {
    /// Make a file
    MakeFile {
        /// The file
        path: PathBuf,
        /// Its size
        mib: u32,
        /// Leave it without content
        #[arg(long)]
        sparse: bool,
    },
    /// Make folders with files
    MakeTree {
        /// The folder they are in
        path: PathBuf,
        /// How many folders
        folders: u32,
        /// How many files in each
        files: u32,
    },
    /// Time reading
    Read(Blocks),
    /// Time writing
    Write(Blocks),
    /// Time listing every folder of a tree and looking at the attributes of every file
    Walk {
        /// The tree
        path: PathBuf,
        /// Walk it once before that
        #[arg(long)]
        again: bool,
        /// How long to wait between the two
        #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "again")]
        after: u64,
    },
    /// Time reading the names in a folder
    List {
        /// The folder
        path: PathBuf,
    },
    /// Serve one connection after the other: see the next three
    Serve {
        /// Where
        address: String,
    },
    /// Time sending
    Send {
        /// The server's address
        address: String,
        /// How much
        mib: u32,
    },
    /// Time receiving
    Receive {
        /// The server's address
        address: String,
        /// How much
        mib: u8,
    },
    /// Time sending a byte and receiving one
    Ask {
        /// The server's address
        address: String,
        /// How often
        count: u32,
    },
    /// Write to standard output
    Pour {
        /// How much
        mib: u32,
    },
    /// Time what comes from standard input, from its first byte on
    Drain,
}

/// Blocks of a file or disk.
#[derive(Debug, Args)]
pub struct Blocks {
    /// The file or disk
    path: PathBuf,
    /// The size of a block, bytes
    block: usize,
    /// How many
    count: u64,
    /// In no order, out of that many
    #[arg(long, value_name = "BLOCKS")]
    among: Option<u64>,
    /// Not by the page cache
    #[arg(long)]
    direct: bool,
    /// Read all of it before
    #[arg(long)]
    cached: bool,
}

impl Operation {
    /// Does it. The first program of a guest does not return from that.
    ///
    /// # Errors
    /// Those of the files and connections.
    pub fn run(&self) -> io::Result<()> {
        // The first program of a container has a /proc.
        if std::process::id() != 1 || fs::exists("/proc/self")? {
            return self.perform();
        }
        fs::create_dir_all("/dev")?;
        mount(
            Some("dev"),
            "/dev",
            Some("devtmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        if let Err(error) = self.perform() {
            println!("bulkhead-bench-io: {error}");
        }
        loop {
            pause();
        }
    }

    fn perform(&self) -> io::Result<()> {
        match self {
            Self::MakeFile { path, mib, sparse } => file::make(path, *mib, *sparse),
            Self::MakeTree { path, folders, files } => tree::make(path, *folders, *files),
            Self::Read(blocks) => report(file::read(blocks)?),
            Self::Write(blocks) => report(file::write(blocks)?),
            Self::Walk { path, again, after } => {
                let pause = again.then(|| Duration::from_secs(*after));
                report(tree::walk(path, pause)?)
            }
            Self::List { path } => report(tree::list(path)?),
            Self::Serve { address } => tcp::serve(address),
            Self::Send { address, mib } => report(tcp::send(address, *mib)?),
            Self::Receive { address, mib } => report(tcp::receive(address, *mib)?),
            Self::Ask { address, count } => report(tcp::ask(address, *count)?),
            Self::Pour { mib } => stream::pour(&mut io::stdout().lock(), *mib),
            Self::Drain => report(stream::drain(&mut io::stdin().lock())?),
        }
    }
}

/// Says how long something took, as the bench reads it.
fn report(took: Duration) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "took {:x}", took.as_nanos())?;
    stdout.flush()
}

/// Takes the time.
fn time(what: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    what()?;
    Ok(start.elapsed())
}
