//! `bulkhead-rootfs`: makes the guest's root file system from the agent.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bulkhead_rootfs_builder::agent::Agent;
use bulkhead_rootfs_builder::{image, initramfs};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Makes the root file system that a bulkhead guest starts from.
///
/// It holds the agent as /init, the directories the agent mounts on, and /dev/console. The same agent gives the same
/// bytes.
#[derive(Parser)]
#[command(name = "bulkhead-rootfs", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an initramfs: an uncompressed cpio archive in the "newc" format
    Initramfs(Files),
    /// Make a disk image, for `vm.image` in config.json: boot it with `root=/dev/vda ro init=/init`
    Image {
        #[command(flatten)]
        files: Files,
        /// File system of the image
        #[arg(long, value_enum, default_value_t = Format::Erofs)]
        format: Format,
    },
}

#[derive(Args)]
struct Files {
    /// The agent: a static x86-64 executable
    #[arg(long, value_name = "PATH")]
    agent: PathBuf,
    /// Where the result goes; an existing file is replaced once the result is complete
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Read-only and compact; needs erofs-utils, and root to make /dev/console
    Erofs,
    /// Needs e2fsprogs
    Ext4,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-rootfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Initramfs(files) => initramfs::write_file(&Agent::read(&files.agent)?, &files.output)
            .with_context(|| format!("cannot write the initramfs {}", files.output.display())),
        Command::Image { files, format } => {
            let format = match format {
                Format::Erofs => image::Format::Erofs,
                Format::Ext4 => image::Format::Ext4,
            };
            image::write_file(&Agent::read(&files.agent)?, format, &files.output)
                .with_context(|| format!("cannot write the image {}", files.output.display()))
        }
    }
}
