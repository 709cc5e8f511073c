//! Who a process is and what it may do: limits, users, groups, capabilities.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, PosixRlimit, PosixRlimitType, User};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, clear_ambient_capability_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
        set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::failure::{Failure, Step};

/// How many files a process may open that has no such limit of its own: not as many as the agent.
const DEFAULT_FILES: Rlimit = Rlimit {
    current: Some(1024),
    maximum: Some(1 << 20),
};

/// Sets resource limits.
///
/// # Errors
/// Names the limit.
pub fn set_limits(limits: &[PosixRlimit]) -> Result<(), Failure> {
    if !limits
        .iter()
        .any(|limit| limit.typ() == PosixRlimitType::RlimitNofile)
    {
        setrlimit(Resource::Nofile, DEFAULT_FILES).step(|| "set RLIMIT_NOFILE")?;
    }
    let finite = |value| if value == u64::MAX { None } else { Some(value) };
    for limit in limits {
        let value = Rlimit {
            current: finite(limit.soft()),
            maximum: finite(limit.hard()),
        };
        setrlimit(resource(limit.typ()), value).step(|| format!("set {}", limit.typ()))?;
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// Becomes root of a user namespace that has just been entered.
///
/// # Errors
/// Says that root is not mapped.
pub fn become_root() -> Result<(), Failure> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .and_then(|()| set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
        .step(|| "become root of the user namespace")
}

/// Becomes the user with the capabilities given, and no others.
///
/// # Errors
/// Names the step.
pub fn become_user(user: &User, capabilities: Option<&LinuxCapabilities>) -> Result<(), Failure> {
    let wanted = |set: fn(&LinuxCapabilities) -> &Option<HashSet<Capability>>| {
        capabilities
            .and_then(|all| set(all).as_ref())
            .map_or(CapabilitySet::empty(), bits)
    };
    let bounding = wanted(LinuxCapabilities::bounding);
    for (_, capability) in CapabilitySet::all().difference(bounding).iter_names() {
        remove_capability_from_bounding_set(capability).step(|| "limit process.capabilities.bounding")?;
    }
    // Else they would be lost with the change of the user, before they could be set as wanted.
    set_keep_capabilities(true).step(|| "keep capabilities")?;
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    set_thread_groups(&groups).step(|| "set process.user.additionalGids")?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    set_thread_res_gid(gid, gid, gid).step(|| format!("set process.user.gid {}", user.gid()))?;
    set_thread_res_uid(uid, uid, uid).step(|| format!("set process.user.uid {}", user.uid()))?;
    set_keep_capabilities(false).step(|| "keep capabilities")?;
    let sets = CapabilitySets {
        effective: wanted(LinuxCapabilities::effective),
        permitted: wanted(LinuxCapabilities::permitted),
        inheritable: wanted(LinuxCapabilities::inheritable),
    };
    set_capabilities(None, sets).step(|| "set process.capabilities")?;
    clear_ambient_capability_set().step(|| "clear ambient capabilities")?;
    for capability in wanted(LinuxCapabilities::ambient) {
        match configure_capability_in_ambient_set(capability, true) {
            // Only what is permitted and inheritable can be ambient (capabilities(7)). Engines list more than that, and
            // the process gets no more for it.
            Err(Errno::PERM) => {}
            raised => raised.step(|| "set process.capabilities.ambient")?,
        }
    }
    Ok(())
}

fn bits(names: &HashSet<Capability>) -> CapabilitySet {
    names
        .iter()
        .filter_map(|name| CapabilitySet::from_name(&name.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_bit() {
        let names: HashSet<Capability> =
            serde_json::from_str(r#"["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_MAC_ADMIN"]"#).unwrap();
        assert_eq!(
            bits(&names),
            CapabilitySet::CHOWN | CapabilitySet::CHECKPOINT_RESTORE | CapabilitySet::MAC_ADMIN
        );
    }
}
