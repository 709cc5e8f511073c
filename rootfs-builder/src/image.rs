//! The guest's root as a block device image, for the `vm.image` section of the OCI configuration.
//!
//! The file systems are made by Debian's `erofs-utils` and `e2fsprogs`. Both images are read-only in spirit: no journal,
//! no room to grow.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::agent::Agent;
use crate::output;
use crate::tree::{ENTRIES, Kind};

/// Identifies the file system; fixed, since the same agent is to give the same bytes.
const UUID: &str = "62756c6b-6865-4164-8000-000000000001";

/// Bytes the ext4 image has beyond the agent, for its own structures.
const EXT4_OVERHEAD: u64 = 1 << 20;

/// File systems an image can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Read-only and compact; making one needs the right to make device nodes.
    Erofs,
    /// Understood everywhere; can be made by any user.
    Ext4,
}

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// `mknod` was refused.
    #[error("cannot make the node /dev/console for the image: {0}: run as root, or use the format ext4")]
    Console(io::Error),
    /// A program is not installed.
    #[error("{tool} is missing: apt-get install {package}")]
    Missing {
        /// The program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program did not do its work.
    #[error("{tool} failed: {message}")]
    Failed {
        /// The program.
        tool: &'static str,
        /// What it printed.
        message: String,
    },
}

/// Writes an image to the file `output`, which is replaced once the image is complete.
///
/// # Errors
/// If the file cannot be written, or a program that makes file systems is missing or fails.
pub fn write_file(agent: &Agent, format: Format, output: &Path) -> Result<(), ImageError> {
    output::replace(output, |file| match format {
        Format::Erofs => write_erofs(agent, file.path()),
        Format::Ext4 => write_ext4(agent, file.as_file(), file.path()),
    })
}

fn write_erofs(agent: &Agent, image: &Path) -> Result<(), ImageError> {
    let root = tempfile::tempdir()?;
    for entry in ENTRIES {
        let path = root.path().join(entry.path);
        match entry.kind {
            Kind::Directory => fs::create_dir(&path)?,
            Kind::CharacterDevice(major, minor) => {
                let number = makedev(major.into(), minor.into());
                mknod(&path, SFlag::S_IFCHR, Mode::empty(), number)
                    .map_err(|errno| ImageError::Console(errno.into()))?;
            }
            Kind::Agent => fs::write(&path, agent.bytes())?,
        }
    }
    // Last, since a root-less run could not write below a directory of mode 0555.
    for entry in ENTRIES {
        fs::set_permissions(
            root.path().join(entry.path),
            Permissions::from_mode(entry.permissions),
        )?;
    }
    fs::set_permissions(root.path(), Permissions::from_mode(0o755))?;

    let mut mkfs = tool("mkfs.erofs");
    mkfs.args(["--quiet", "--all-root", "-T0", "-U", UUID])
        .args([image, root.path()]);
    run("mkfs.erofs", "erofs-utils", &mut mkfs, b"")?;
    Ok(())
}

/// Fills the file system with `debugfs`, not by `mke2fs -d`, which copies the change times of the files it is given.
fn write_ext4(agent: &Agent, file: &File, image: &Path) -> Result<(), ImageError> {
    let size = agent.bytes().len() as u64 + EXT4_OVERHEAD;
    file.set_len(size.next_multiple_of(4096))?;
    let mut mke2fs = tool("mke2fs");
    mke2fs.args([
        "-q", "-F", "-t", "ext4", "-b", "4096", "-N", "64", "-m", "0", "-U", UUID,
    ]);
    mke2fs.args(["-O", "^has_journal,^resize_inode"]);
    mke2fs.arg("-E").arg(format!(
        "hash_seed={UUID},root_owner=0:0,lazy_itable_init=0,nodiscard"
    ));
    run("mke2fs", "e2fsprogs", mke2fs.arg(image), b"")?;

    let staging = tempfile::tempdir()?;
    fs::write(staging.path().join("agent"), agent.bytes())?;
    let mut debugfs = tool("debugfs");
    debugfs
        .current_dir(staging.path())
        .args(["-w", "-f", "-"])
        .arg(fs::canonicalize(image)?);
    let output = run("debugfs", "e2fsprogs", &mut debugfs, ext4_script().as_bytes())?;
    // debugfs exits with 0 whatever happens. Its first line of errors is its name and version.
    let errors = String::from_utf8_lossy(&output.stderr);
    match errors.split_once('\n') {
        None | Some((_, "")) => Ok(()),
        Some((_, rest)) => Err(ImageError::Failed {
            tool: "debugfs",
            message: rest.trim().to_owned(),
        }),
    }
}

/// The commands of debugfs(8) that make the guest's root.
fn ext4_script() -> String {
    let mut script = String::new();
    for entry in ENTRIES {
        let (parent, name) = entry.path.rsplit_once('/').unwrap_or(("", entry.path));
        script += &format!("cd /{parent}\n");
        let file_type = match entry.kind {
            Kind::Directory => {
                script += &format!("mkdir {name}\n");
                SFlag::S_IFDIR
            }
            Kind::CharacterDevice(major, minor) => {
                script += &format!("mknod {name} c {major} {minor}\n");
                SFlag::S_IFCHR
            }
            Kind::Agent => {
                script += &format!("write agent {name}\n");
                SFlag::S_IFREG
            }
        };
        script += &format!(
            "set_inode_field {name} mode 0{:o}\n",
            file_type.bits() | entry.permissions
        );
        script += &format!("set_inode_field {name} uid 0\nset_inode_field {name} gid 0\n");
    }
    script
}

/// A program with an environment in which it behaves the same for everybody.
fn tool(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    // mkfs programs are in sbin, which users do not have in their path. One second, since e2fsprogs takes 0 for unset.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("E2FSPROGS_FAKE_TIME", "1");
    command
}

/// Runs a program with `input` as its standard input.
fn run(
    tool: &'static str,
    package: &'static str,
    command: &mut Command,
    input: &[u8],
) -> Result<Output, ImageError> {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ImageError::Missing { tool, package },
        _ => error.into(),
    })?;
    let sent = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = format!(
            "{} ({})",
            String::from_utf8_lossy(&output.stderr).trim(),
            output.status
        );
        return Err(ImageError::Failed { tool, message });
    }
    sent?;
    Ok(output)
}

#[cfg(test)]
mod tests;
