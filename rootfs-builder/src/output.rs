//! Results appear whole or not at all.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Makes a file beside `path`, lets `fill` write it, and gives it its name once it is complete.
pub(crate) fn replace<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<(), E>,
) -> Result<(), E> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = Builder::new()
        .prefix(".bulkhead-rootfs-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    fill(&mut file)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
