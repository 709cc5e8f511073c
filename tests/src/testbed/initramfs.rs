//! L1's initramfs: its pid 1, busybox for `ip`, and the modules in loading order. The rest comes over virtio-fs.

use std::fs::{self, File};
use std::io::{self, Write};
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
        writer.write_all(content)?;
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

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// Those of the file.
    pub fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        let length = u32::try_from(target.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let builder = Builder::new(name)
            .mode(0o777)
            .set_mode_file_type(ModeFileType::Symlink);
        let mut writer = builder.write(&self.file, length);
        writer.write_all(target.as_bytes())?;
        writer.finish()?;
        Ok(())
    }

    /// Adds what the first minutes of every L1 need: pid 1, busybox for `ip`, and the modules in loading order.
    ///
    /// # Errors
    /// A file cannot be read or written, or a module not be decompressed.
    pub fn base(&mut self, init: &Path, kernel: &Kernel) -> Result<(), Error> {
        let read = |path: &Path| fs::read(path).map_err(Error::file(path));
        let written = || Error::file("L1's initramfs");
        for folder in ["dev", "proc", "sys", "modules"] {
            self.folder(folder).map_err(written())?;
        }
        self.executable("init", &read(init)?).map_err(written())?;
        self.executable("busybox", &read(Path::new("/bin/busybox"))?)
            .map_err(written())?;
        for (number, file) in kernel.module_files()?.iter().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("modules/{number:03}-{}", name.trim_end_matches(".xz"));
            let module = match file.extension() {
                Some(extension) if extension == "xz" => {
                    tool::output(Command::new("xz").arg("-dc").arg(file))?
                }
                _ => read(file)?,
            };
            self.executable(&name, &module).map_err(written())?;
        }
        Ok(())
    }
}

/// Writes the testbed's initramfs to `path`.
///
/// # Errors
/// A file cannot be read or written, or a module not be decompressed.
pub fn write(path: &Path, init: &Path, kernel: &Kernel) -> Result<(), Error> {
    let mut archive = Archive::create(path).map_err(Error::file(path))?;
    archive.base(init, kernel)?;
    archive.finish().map_err(Error::file(path))
}
