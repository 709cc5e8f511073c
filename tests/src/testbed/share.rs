//! virtiofsd: serves one folder of the host to L1.
//!
//! Debian 12's own virtiofsd keeps a descriptor per file that was ever looked at and runs out of them, so the one from
//! crates.io is built once into the cache; it opens files by handle.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::log::Log;
use super::process::Process;
use super::{Error, cache, tool};

const VERSION: &str = "1.14.0";

/// The virtiofsd program, built if the cache has none. Call with the cache locked.
///
/// # Errors
/// cargo fails; libseccomp-dev and libcap-ng-dev must be installed.
pub fn program() -> Result<PathBuf, Error> {
    let root = cache::folder()?.join(format!("virtiofsd-{VERSION}"));
    let program = root.join("bin/virtiofsd");
    if !program.exists() {
        eprintln!("testbed: building virtiofsd {VERSION} (about 2 minutes, once)");
        let mut cargo = Command::new("cargo");
        cargo
            .args(["install", "virtiofsd", "--version", VERSION, "--locked", "--root"])
            .arg(&root);
        // It links shared libraries: neither the work tree's .cargo/config.toml nor flags of a calling cargo apply.
        cargo.current_dir("/");
        for variable in [
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
        ] {
            cargo.env_remove(variable);
        }
        tool::output(&mut cargo)?;
    }
    Ok(program)
}

/// A served folder. L1's end is [`Share::socket`], to be handed to QEMU.
pub struct Share {
    /// QEMU's end of the vhost-user connection.
    pub socket: OwnedFd,
    /// What virtiofsd complained about.
    pub errors: Log,
    _virtiofsd: Process,
}

impl Share {
    /// Serves the host's root read-only and cached. It is seen through a private bind mount without the host's
    /// submounts, as overlayfs refuses to have them below it ("Object is remote").
    ///
    /// # Errors
    /// virtiofsd does not start.
    pub fn of_root(program: &Path) -> Result<Self, Error> {
        let view = cache::folder()?.join("root");
        fs::create_dir_all(&view).map_err(Error::file(&view))?;
        let mut command = Command::new(program);
        command
            .args([
                "--readonly",
                "--cache=always",
                "--modcaps=+dac_read_search",
                "--shared-dir",
            ])
            .arg(&view);
        // SAFETY: only system calls; nix copies such short paths to the stack.
        unsafe {
            command.pre_exec(move || {
                unshare(CloneFlags::CLONE_NEWNS)?;
                bind("/", Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
                bind("/", &view, MsFlags::MS_BIND)?;
                bind(
                    "/",
                    &view,
                    MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
                )
            });
        }
        Self::serve(&mut command)
    }

    /// Serves `folder` read-write; what changes on the host is seen within a second.
    ///
    /// # Errors
    /// virtiofsd does not start.
    pub fn of_work_tree(program: &Path, folder: &Path) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command
            .args([
                "--cache=auto",
                "--modcaps=+dac_read_search:+sys_admin:+mknod",
                "--shared-dir",
            ])
            .arg(folder);
        Self::serve(&mut command)
    }

    fn serve(command: &mut Command) -> Result<Self, Error> {
        let (listener, socket) = connected_listener().map_err(Error::file("abstract Unix socket"))?;
        command.args([
            "--inode-file-handles=prefer",
            "--xattr",
            "--sandbox=chroot",
            "--log-level=error",
        ]);
        command
            .arg(format!("--fd={}", listener.as_raw_fd()))
            .stdin(Stdio::null());
        let errors = Log::new().map_err(Error::file("a temporary file"))?;
        command
            .stdout(Stdio::null())
            .stderr(errors.stream().map_err(Error::file("a temporary file"))?);
        let virtiofsd = Process::spawn(command, &[listener.as_fd()])?;
        Ok(Self {
            socket,
            errors,
            _virtiofsd: virtiofsd,
        })
    }
}

fn bind(source: &str, target: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, flags, None::<&str>)?)
}

/// A listener whose first connection is already made: nothing is left in the file system and nobody waits for a socket
/// to appear. The name is abstract and random.
fn connected_listener() -> io::Result<(UnixListener, OwnedFd)> {
    let mut name = [0; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut name)?;
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let connection = UnixStream::connect_addr(&address)?;
    Ok((listener, connection.into()))
}
