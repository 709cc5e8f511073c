//! The agent's executable, checked before it becomes a guest's only program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PT_INTERP};
use elf::endian::LittleEndian;
use elf::file::Class;

/// Why a file cannot be the guest's agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The file cannot be read.
    #[error("cannot read the agent {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file can be read and is not what a guest can run.
    #[error("{} cannot be the guest's init: {problem}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Unfit,
    },
}

/// What keeps a program from running as the only file of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not an ELF file, or one cut short.
    #[error("it is not a whole ELF file")]
    NotElf,
    /// An object file, library or core dump.
    #[error("it is an ELF file but not an executable")]
    NotExecutable,
    /// For another processor.
    #[error("it is not for x86-64")]
    WrongMachine,
    /// The guest has no dynamic linker.
    #[error(
        "it needs a dynamic linker, which the guest does not have: link it statically (target-feature=+crt-static)"
    )]
    Dynamic,
    /// The archive's size field has 32 bits.
    #[error("it is larger than 4 GiB")]
    TooLarge,
}

/// A static x86-64 executable, held in memory.
#[derive(Debug)]
pub struct Agent {
    bytes: Vec<u8>,
}

impl Agent {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is anything but a static x86-64 executable.
    pub fn read(path: &Path) -> Result<Self, AgentError> {
        let bytes = fs::read(path).map_err(|source| AgentError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(bytes).map_err(|problem| AgentError::Unfit {
            path: path.to_owned(),
            problem,
        })
    }

    /// Takes an executable that is in memory already.
    ///
    /// # Errors
    /// If it is anything but a static x86-64 executable.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Unfit> {
        u32::try_from(bytes.len()).map_err(|_| Unfit::TooLarge)?;
        let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes).map_err(|_| Unfit::NotElf)?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 {
            return Err(Unfit::WrongMachine);
        }
        if elf.ehdr.e_type != ET_EXEC && elf.ehdr.e_type != ET_DYN {
            return Err(Unfit::NotExecutable);
        }
        let segments = elf.segments().ok_or(Unfit::NotExecutable)?;
        for segment in segments {
            elf.segment_data(&segment).map_err(|_| Unfit::NotElf)?;
            if segment.p_type == PT_INTERP {
                return Err(Unfit::Dynamic);
            }
        }
        Ok(Self { bytes })
    }

    /// The executable's bytes; their number fits in 32 bits.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests;
