//! A real systemd, with a real D-Bus: process 1 of namespaces of its own, with a part of the cgroup tree for its root.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, LIMIT, processes};

/// The part of the cgroup tree, as seen from outside.
const CGROUP: &str = "/sys/fs/cgroup/bulkhead-test-systemd";

/// Makes the surroundings of a host that has just started; the variables are [`CGROUP`] and where to say that it is up.
/// The process that waits outside is not to be in the cgroup: one with processes cannot hand controllers down.
const BOOT: &str = r#"
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mkdir "$CGROUP"
exec unshare --pid --mount --ipc --uts --fork sh -ec '
    echo 0 >"$CGROUP/cgroup.procs"
    exec unshare --cgroup sh -ec "$INSIDE"
'
"#;

const INSIDE: &str = r#"
mount -t proc proc /proc
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock /run/dbus
mount -t tmpfs tmpfs /etc/systemd/system
cd /etc/systemd/system
printf '[Unit]\nDefaultDependencies=no\nRequires=dbus.service\nAfter=dbus.service\n' >test.target
printf '[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n' >dbus.socket
cat >dbus.service <<UNIT
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation
UNIT
exec env -i container=test PATH="$PATH" NOTIFY_SOCKET="$NOTIFY_SOCKET" \
    /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
"#;

/// A running systemd. It ends, with all that it started, when this is dropped.
pub struct Systemd {
    outside: Child,
    pid: Pid,
}

impl Systemd {
    /// Starts it, and returns when it is up.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let socket = host.folder().join("notify");
        let notify = UnixDatagram::bind(&socket).expect("a socket");
        notify.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let outside = Command::new("sh")
            .args(["-ec", BOOT])
            .env("CGROUP", CGROUP)
            .env("INSIDE", INSIDE)
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .spawn()
            .expect("sh");
        wait_until_ready(&notify).expect("systemd comes up");
        let pid = processes::descendant_named(Pid::from_raw(outside.id().cast_signed()), "systemd");
        Self { outside, pid }
    }

    /// A command that is to run where systemd is process 1.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid.to_string()])
            .args(["--mount", "--pid", "--cgroup", "--ipc", "--"]);
        command
    }

    /// What `systemctl ARGS` says.
    ///
    /// # Panics
    /// It cannot be run.
    #[must_use]
    pub fn systemctl(&self, args: &[&str]) -> String {
        let output = self
            .command()
            .arg("systemctl")
            .args(args)
            .output()
            .expect("nsenter");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A file of its host, as seen from outside.
    #[must_use]
    pub fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        processes::file(self.pid, "root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The folder of a cgroup of its, as seen from outside.
    #[must_use]
    pub fn cgroup(&self, path: &str) -> PathBuf {
        Path::new(CGROUP).join(path)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With process 1 of a process namespace go all others of it.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = self.outside.wait();
        // What cannot be removed is what the host finds left behind.
        let _ = remove(Path::new(CGROUP));
    }
}

/// systemd says several things on that socket (sd_notify(3)).
fn wait_until_ready(notify: &UnixDatagram) -> io::Result<()> {
    let mut message = [0; 4096];
    loop {
        let length = notify.recv(&mut message)?;
        if message[..length]
            .split(|b| *b == b'\n')
            .any(|line| line == b"READY=1")
        {
            return Ok(());
        }
    }
}

fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
