//! The VMM's process.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    rc::Rc,
};

use bulkhead_agent_protocol::SHARED_TAG;
use bulkhead_vmm::{
    failure::with_causes,
    launch::{self, Launch, LaunchError},
};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Machine, SharedFolder, StateError, StateFolder, Uplink, VmmControl, VmmEnd, end::BootFiles,
    network::NETWORK_SLOTS, vmm_control::LONGEST_ANSWER,
};
use crate::{logging, readiness::watch};

/// The guest's vsock address. It is known inside its own VMM only, so every guest can have the same.
const GUEST_CID: u32 = 3;

const KVM: &str = "/dev/kvm";

/// Why the VMM cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// `/dev/kvm` cannot be opened.
    #[error("{KVM}: {0}; this host offers no virtual machines, `bulkhead check` says why")]
    Kvm(io::Error),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The sockets to the VMM.
    #[error("sockets to the VMM: {0}")]
    Descriptors(io::Error),
    /// The process.
    #[error("VMM {}: {}", path.display(), with_causes(source))]
    Launch {
        /// The binary.
        path: PathBuf,
        /// Why it cannot be executed.
        source: LaunchError,
    },
}

/// A running VMM. When it is dropped, it is killed, and it has gone when that returns.
pub struct Vmm {
    pidfd: AsyncFd<OwnedFd>,
    report: AsyncFd<OwnedFd>,
    /// What of the report has been read.
    said: Vec<u8>,
    control: VmmControl,
    boot_files: Rc<BootFiles>,
}

impl Vmm {
    /// Starts the VMM, with everything open that it needs. Called inside a tokio runtime.
    ///
    /// # Errors
    /// What it needs is not there, or it cannot be executed.
    pub fn start(
        machine: Machine,
        folder: &StateFolder,
        shared: &SharedFolder,
        cgroup: BorrowedFd<'_>,
    ) -> Result<(Self, Uplink), VmmError> {
        let boot_files = BootFiles {
            kernel: machine.kernel.path,
            initramfs: machine.initramfs.as_ref().map(|file| file.path.clone()),
        };
        let stderr = logging::of_children().map_err(VmmError::Descriptors)?;
        let console = machine.options.console.then(|| stderr.try_clone());
        let console = console
            .transpose()
            .map_err(VmmError::Descriptors)?
            .map(OwnedFd::from);
        let (uplink, vmm_uplink) = Uplink::pair().map_err(VmmError::Descriptors)?;
        let launched = Launch {
            binary: &machine.vmm.file,
            directory: shared.handle(),
            cgroup: Some(cgroup),
            stderr: stderr.as_fd(),
            kvm: open_kvm()?.into(),
            vcpus: machine.size.vcpus,
            max_vcpus: Some(machine.max_size.vcpus),
            memory_mib: machine.size.memory_mib,
            max_memory_mib: Some(machine.max_size.memory_mib),
            memory_backing: machine.options.memory,
            kernel: machine.kernel.file.into(),
            initramfs: machine.initramfs.map(|file| file.file.into()),
            command_line: machine.command_line,
            vsock: Some(launch::Vsock {
                cid: GUEST_CID,
                listener: folder.listen(StateFolder::VSOCK)?.into(),
                uplink: Some(vmm_uplink),
            }),
            filesystem: Some(SHARED_TAG.to_owned()),
            blocks: machine.disks,
            rng: true,
            // What has been taken in advance is kept.
            page_reporting: !machine.options.memory.prefault,
            network_slots: NETWORK_SLOTS,
            disk_slots: machine.disk_slots,
            console,
            control: Some(folder.listen(StateFolder::CONTROL)?.into()),
        }
        .start()
        .map_err(|source| VmmError::Launch {
            path: machine.vmm.path,
            source,
        })?;
        let report = launched
            .report()
            .try_clone_to_owned()
            .map_err(VmmError::Descriptors)?;
        let pidfd = launched.pidfd;
        rustix::io::ioctl_fionbio(&report, true).map_err(|e| VmmError::Descriptors(e.into()))?;
        let pidfd = watch(pidfd, Interest::READABLE).map_err(VmmError::Descriptors)?;
        let report = watch(report, Interest::READABLE).map_err(VmmError::Descriptors)?;
        let control = VmmControl::of(folder)?;
        Ok((
            Self {
                pidfd,
                report,
                said: Vec::new(),
                control,
                boot_files: Rc::new(boot_files),
            },
            uplink,
        ))
    }

    /// Waits for the VMM's end. Cancelling this loses nothing.
    pub async fn ended(&mut self) -> VmmEnd {
        // The report first: it may be longer than a pipe holds, and its end of file comes with the VMM's end.
        let mut chunk = [0; 4096];
        loop {
            let read = |report: &OwnedFd| Ok(rustix::io::read(report, &mut chunk)?);
            match self.report.async_io(Interest::READABLE, read).await {
                Ok(n @ 1..) if self.said.len() < LONGEST_ANSWER => {
                    self.said.extend_from_slice(chunk.get(..n).unwrap_or_default());
                }
                // Who says more than that has no report to give.
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        // A pidfd stays readable, so no readiness is consumed. That it cannot be polled is taken for the end.
        drop(self.pidfd.readable().await);
        let report = serde_json::from_slice(&self.said).ok();
        VmmEnd::new(report, wait(self.pidfd.get_ref()), Rc::clone(&self.boot_files))
    }

    /// The way to ask it.
    pub fn control(&self) -> VmmControl {
        self.control.clone()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended, and been waited for: then there is nothing to do.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
        wait(self.pidfd.get_ref());
    }
}

/// Waits for a child; answers with the signal that ended it, if one did.
fn wait(pidfd: &OwnedFd) -> Option<i32> {
    let wait = || rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    rustix::io::retry_on_intr(wait)
        .ok()
        .flatten()
        .and_then(|status| status.terminating_signal())
}

fn open_kvm() -> Result<File, VmmError> {
    File::options()
        .read(true)
        .write(true)
        .open(KVM)
        .map_err(VmmError::Kvm)
}
