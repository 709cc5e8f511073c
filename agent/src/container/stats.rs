//! What the kernel counts of a container.

use std::io;

use bulkhead_agent_protocol::messages::CgroupFile;

use super::cgroup::Cgroup;

/// Every file of a cgroup that can be read, in the order of their names. Some exist to be written only, and some cannot be
/// read in every state.
///
/// # Errors
/// What reading the folder gives.
pub fn files(cgroup: &Cgroup) -> io::Result<Vec<CgroupFile>> {
    let mut names = cgroup.files()?;
    names.sort_unstable();
    let read = |name: String| {
        let content = cgroup.read(&name).ok()?;
        Some(CgroupFile {
            name,
            content,
            ..CgroupFile::default()
        })
    };
    Ok(names.into_iter().filter_map(read).collect())
}
