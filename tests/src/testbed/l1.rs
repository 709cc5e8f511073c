//! A running L1.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;

use super::channel::Setup;
use super::client::Endpoint;
use super::kernel::Kernel;
use super::qemu::{Direction, Machine, Qemu};
use super::saved::Saved;
use super::share::{self, Share};
use super::{Error, cache};
use crate::l1::files::{ROOT_TAG, WORK_TREE_TAG};

/// What an L1 is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its memory, MiB.
    pub memory_mib: u32,
    /// The folder that is shared read-write and live, at the same path.
    pub work_tree: PathBuf,
}

impl Options {
    /// 2 GiB and the work tree around the current folder.
    ///
    /// # Errors
    /// There is no current folder.
    pub fn new() -> Result<Self, Error> {
        let here = env::current_dir().map_err(Error::file("."))?;
        let work_tree = here
            .ancestors()
            .find(|folder| folder.join("Cargo.lock").exists())
            .unwrap_or(&here);
        Ok(Self {
            memory_mib: 2048,
            work_tree: work_tree.to_owned(),
        })
    }
}

/// A running L1, which ends when this is dropped, and with the thread that started it.
pub struct L1 {
    endpoint: Endpoint,
    qemu: Qemu,
    _shares: [Share; 2],
}

impl L1 {
    /// Restores an L1, after downloading, building and saving what the cache has not.
    ///
    /// # Errors
    /// Anything that keeps it from coming up.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let lock = cache::lock()?;
        let kernel = Kernel::get()?;
        let virtiofsd = share::program()?;
        let saved = Saved::get(&init()?, &kernel, options.memory_mib)?;
        let memory = Qemu::memory(options.memory_mib).map_err(Error::file("L1's memory"))?;
        saved.copy_memory(&memory)?;
        let state = saved.state()?;
        let shares = [
            Share::of_root(&virtiofsd)?,
            Share::of_work_tree(&virtiofsd, &options.work_tree)?,
        ];
        let initramfs = saved.initramfs();
        let mut qemu = Qemu::start(
            &Machine {
                memory_mib: options.memory_mib,
                kernel: &kernel.image(),
                initramfs: &initramfs,
                incoming: true,
                shares: &[shares[0].socket.as_fd(), shares[1].socket.as_fd()],
            },
            &memory,
        )?;
        qemu.migrate(Direction::In, &state)?;
        drop(lock);
        // They cannot be part of a saved state, so they are plugged in now.
        for (number, tag) in [ROOT_TAG, WORK_TREE_TAG].iter().enumerate() {
            let device = json!({
                "driver": "vhost-user-fs-pci", "id": format!("fs{number}"), "chardev": format!("share{number}"),
                "tag": tag, "queue-size": 1024,
            });
            qemu.execute("device_add", &device)?;
        }
        qemu.execute("cont", &json!({}))?;
        let endpoint = Endpoint {
            address: qemu.agent_address()?,
            token: token().map_err(Error::file("/dev/urandom"))?,
        };
        let setup = setup(&endpoint, &kernel, options)?;
        if let Err(error) = endpoint.set_up(setup) {
            let [root, work_tree] = shares.map(|share| share.errors.tail());
            let console = [qemu.console(), qemu.errors(), root, work_tree].join("\n");
            return Err(Error::Boot {
                what: error.to_string(),
                console,
            });
        }
        Ok(Self {
            endpoint,
            qemu,
            _shares: shares,
        })
    }

    /// How to run commands in it.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The end of its console.
    #[must_use]
    pub fn console(&self) -> String {
        self.qemu.console()
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        self.qemu.wait();
    }
}

fn setup(endpoint: &Endpoint, kernel: &Kernel, options: &Options) -> Result<Setup, Error> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Setup {
        token: endpoint.token.clone(),
        time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        entropy: random::<32>().map_err(Error::file("/dev/urandom"))?.to_vec(),
        work_tree: absolute(&options.work_tree)?,
        modules: absolute(&kernel.modules())?,
    })
}

fn absolute(path: &Path) -> Result<String, Error> {
    let path = fs::canonicalize(path).map_err(Error::file(path))?;
    Ok(path.to_string_lossy().into_owned())
}

/// L1's pid 1, built beside the running program.
fn init() -> Result<PathBuf, Error> {
    let program = env::current_exe().map_err(Error::file("/proc/self/exe"))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    // A test binary is one folder deeper, in deps/.
    let candidates =
        [folder, folder.parent().unwrap_or(folder)].map(|folder| folder.join("bulkhead-l1-init"));
    let found = candidates.iter().find(|path| path.exists()).cloned();
    found.ok_or_else(|| Error::File {
        path: candidates[0].clone(),
        source: io::Error::new(
            io::ErrorKind::NotFound,
            "not built; `cargo build -p bulkhead-tests` builds it",
        ),
    })
}

fn token() -> io::Result<String> {
    Ok(random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
