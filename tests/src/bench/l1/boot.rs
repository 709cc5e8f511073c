//! Boots L1 far enough to measure, works through the plan, and switches L1 off.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::{chdir, chroot};

use super::measure;
use crate::bench::plan::{FILE, Plan, REPLY, Reply};
use crate::bench::profile::is_function;
use crate::l1::{boot, files, modules};

/// The plan's work, from the start of pid 1 to the end of L1.
///
/// # Errors
/// What kept it from beginning; the kernel then panics and QEMU ends.
pub fn run() -> io::Result<()> {
    files::mount_early()?;
    boot::take_console()?;
    modules::load_all()?;
    leave_initramfs()?;
    files::mount_own()?;
    // Where programs are in memory decides how many pages they touch.
    fs::write("/proc/sys/kernel/randomize_va_space", "0")?;
    let plan: Plan = serde_json::from_slice(&fs::read(FILE)?)?;
    for command in &plan.prepare {
        if let Err(why) = prepare(command) {
            reply(&Reply::Failed(command.join(" "), why.to_string()));
        }
    }
    for experiment in &plan.experiments {
        measure::all_runs(experiment, &reply);
    }
    if plan.symbols {
        tell_symbols()?;
    }
    reply(&Reply::Done);
    reboot(RebootMode::RB_AUTOBOOT)?;
    Ok(())
}

fn prepare(command: &[String]) -> io::Result<()> {
    let (program, args) = command
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let ended = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/usr/sbin")
        .output()?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    Err(io::Error::other(format!("{}: {said}", ended.status)))
}

/// The console's lines are of a length that the receiver can hold.
fn tell_symbols() -> io::Result<()> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let functions: Vec<&str> = symbols.lines().filter(|line| is_function(line)).collect();
    for some in functions.chunks(100) {
        reply(&Reply::Symbols(some.join("\n")));
    }
    Ok(())
}

fn reply(reply: &Reply) {
    println!("{REPLY}{}", serde_json::to_string(reply).expect("representable"));
}

/// Moves everything to a tmpfs: nobody can pivot_root away from an initramfs, which is what a runtime does.
fn leave_initramfs() -> io::Result<()> {
    const NEW: &str = "/new";
    fs::create_dir(NEW)?;
    mount(
        Some("root"),
        NEW,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=90%,mode=755"),
    )?;
    for entry in fs::read_dir("/")? {
        let path = entry?.path();
        if ["/new", "/dev", "/proc", "/sys", "/modules"]
            .iter()
            .all(|other| path != Path::new(other))
        {
            copy(
                &path,
                &Path::new(NEW).join(path.strip_prefix("/").expect("in the root")),
            )?;
        }
    }
    umount2("/sys", MntFlags::MNT_DETACH)?;
    for kernels in ["/dev", "/proc"] {
        let target = format!("{NEW}{kernels}");
        fs::create_dir(&target)?;
        mount(
            Some(kernels),
            target.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )?;
    }
    chdir(NEW)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !kind.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
