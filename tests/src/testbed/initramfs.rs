//! L1's initramfs: its pid 1, busybox for `ip`, and the modules in loading order. The rest comes over virtio-fs.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use cpio::newc::{Builder, ModeFileType, trailer};

use super::kernel::Kernel;
use super::{Error, tool};

/// A newc archive that is being written.
pub struct Archive {
    file: File,
}

impl Archive {
    /// Starts an archive at `path`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create(path)?,
        })
    }

    /// Adds a folder. Its parents must be there already.
    ///
    /// # Errors
    /// Those of the file.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        Builder::new(name)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Directory)
            .write(&self.file, 0)
            .finish()?;
        Ok(())
    }

    /// Adds an executable file.
    ///
    /// # Errors
    /// Those of the file; `InvalidInput` above 4 GiB.
    pub fn executable(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let length =
            u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let builder = Builder::new(name)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Regular);
        let mut writer = builder.write(&self.file, length);
        io::Write::write_all(&mut writer, content)?;
        writer.finish()?;
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of the file.
    pub fn finish(self) -> io::Result<()> {
        trailer(self.file)?;
        Ok(())
    }
}

/// Writes L1's initramfs to `path`.
///
/// # Errors
/// A file cannot be read or written, or a module not be decompressed.
pub fn write(path: &Path, init: &Path, kernel: &Kernel) -> Result<(), Error> {
    let read = |path: &Path| fs::read(path).map_err(Error::file(path));
    let mut archive = Archive::create(path).map_err(Error::file(path))?;
    let mut fill = || -> Result<(), Error> {
        let written = Error::file;
        for folder in ["dev", "proc", "sys", "modules"] {
            archive.folder(folder).map_err(written(path))?;
        }
        archive.executable("init", &read(init)?).map_err(written(path))?;
        archive
            .executable("busybox", &read(Path::new("/bin/busybox"))?)
            .map_err(written(path))?;
        for (number, file) in kernel.module_files()?.iter().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("modules/{number:03}-{}", name.trim_end_matches(".xz"));
            let module = match file.extension() {
                Some(extension) if extension == "xz" => {
                    tool::output(Command::new("xz").arg("-dc").arg(file))?
                }
                _ => read(file)?,
            };
            archive.executable(&name, &module).map_err(written(path))?;
        }
        Ok(())
    };
    fill()?;
    archive.finish().map_err(Error::file(path))
}
