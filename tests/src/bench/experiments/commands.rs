//! What is started.

use super::{GUEST_MEMORY_MIB, paths};
use crate::bench::plan::Start;

/// The guest's command line, the devices apart, which each VMM adds.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t noreplace-smp swiotlb=noforce \
     tsc=reliable dummy.numdummies=0 rootfstype=ramfs";

/// A guest: its kernel, its initramfs, and what its kernel is told beside what every one is told.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    kernel: &'static str,
    initramfs: Option<&'static str>,
    parameters: &'static str,
    memory_mib: u32,
    disk: Option<&'static str>,
}

impl Guest {
    /// A kernel alone.
    pub const fn bare(kernel: &'static str) -> Self {
        Self {
            kernel,
            initramfs: None,
            parameters: "",
            memory_mib: GUEST_MEMORY_MIB,
            disk: None,
        }
    }

    /// The product's.
    pub const PRODUCT: Self = Self {
        initramfs: Some(paths::INITRAMFS),
        ..Self::bare(paths::KERNEL)
    };

    /// The product's with another first program, which prints.
    pub const GREETER: Self = Self {
        initramfs: Some(paths::INITRAMFS_WITH_GREETER),
        parameters: " rdinit=/greeter",
        ..Self::bare(paths::KERNEL)
    };

    /// The product's with a disk and another first program, which is told what to do with it.
    pub const fn with_disk(disk: &'static str, parameters: &'static str) -> Self {
        Self {
            initramfs: Some(paths::INITRAMFS_WITH_IO),
            parameters,
            disk: Some(disk),
            ..Self::bare(paths::KERNEL)
        }
    }

    /// With so much memory.
    pub const fn memory(self, memory_mib: u32) -> Self {
        Self { memory_mib, ..self }
    }

    fn command_line(&self) -> String {
        format!("{COMMAND_LINE}{}", self.parameters)
    }

    /// In bulkhead's VMM.
    pub fn in_vmm(&self) -> Start {
        Start::Vmm {
            kernel: self.kernel.into(),
            initramfs: self.initramfs.map(str::to_owned),
            command_line: self.command_line(),
            memory_mib: self.memory_mib,
            disk: self.disk.map(str::to_owned),
        }
    }

    /// In QEMU's smallest machine, without what it can do without, and with the devices that bulkhead's VMM has.
    pub fn in_qemu(&self) -> Start {
        let memory = self.memory_mib.to_string();
        let command_line = self.command_line();
        let mut args = vec!["qemu-system-x86_64", "-nodefaults", "-no-user-config"];
        args.extend(["-display", "none", "-no-reboot"]);
        args.extend([
            "-M",
            "microvm,accel=kvm,acpi=off,x-option-roms=off,rtc=off,isa-serial=on",
            "-cpu",
            "host",
        ]);
        args.extend(["-smp", "1", "-m", &memory, "-serial", "stdio"]);
        args.extend(["-device", "vhost-vsock-device,guest-cid=3"]);
        args.extend(["-device", "virtio-rng-device"]);
        args.extend(["-kernel", self.kernel, "-append", &command_line]);
        if let Some(initramfs) = self.initramfs {
            args.extend(["-initrd", initramfs]);
        }
        let drive = self
            .disk
            .map(|disk| format!("id=disk,file={disk},format=raw,if=none"));
        if let Some(drive) = &drive {
            args.extend(["-drive", drive, "-device", "virtio-blk-device,drive=disk"]);
        }
        command(&args)
    }
}

/// A command.
pub fn command(args: &[&str]) -> Start {
    Start::Command {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
    }
}
