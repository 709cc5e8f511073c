//! Kernel parameters of a container. Only those that belong to a namespace may be set: any other would be the whole
//! guest's, and so every container's of the sandbox.

use std::{collections::HashMap, fs};

use rustix::system::setdomainname;

use super::{namespaces::Namespaces, spec::SpecError};
use crate::failure::{Failure, Step};

const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

const DOMAIN_NAME: &str = "kernel.domainname";

/// Checks that every parameter belongs to a namespace that the container has.
///
/// # Errors
/// The first that does not.
pub fn check(parameters: &HashMap<String, String>, namespaces: Namespaces) -> Result<(), SpecError> {
    for name in parameters.keys() {
        let name_of = || format!("linux.sysctl \"{name}\"");
        let dotted = name.replace('/', ".");
        if dotted.split('.').any(str::is_empty) || dotted.contains('\0') {
            return Err(SpecError::invalid(name_of(), "is no name"));
        }
        let (owned, kind) = if is_network(name) {
            // The guest's network is the sandbox's.
            (true, "net")
        } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            (namespaces.ipc(), "ipc")
        } else if dotted == DOMAIN_NAME {
            (namespaces.uts(), "uts")
        } else {
            return Err(SpecError::Unsupported(format!(
                "{} (it belongs to no namespace)",
                name_of()
            )));
        };
        if !owned {
            return Err(SpecError::invalid(
                name_of(),
                format!("needs an {kind} namespace in linux.namespaces"),
            ));
        }
    }
    Ok(())
}

/// Sets the parameters of the guest's network, which only the agent may.
///
/// # Errors
/// Names the parameter.
pub fn set_network(parameters: &HashMap<String, String>) -> Result<(), Failure> {
    set(parameters.iter().filter(|(name, _)| is_network(name)))
}

/// Sets the parameters of the calling process's own namespaces, through the guest's own `/proc`.
///
/// # Errors
/// Names the parameter.
pub fn set_own(parameters: &HashMap<String, String>) -> Result<(), Failure> {
    let is_domain_name = |name: &str| name.replace('/', ".") == DOMAIN_NAME;
    for (name, value) in parameters.iter().filter(|(name, _)| is_domain_name(name)) {
        // Its file is only for the guest's root, which root of a user namespace is not.
        setdomainname(value.as_bytes()).step(|| format!("set linux.sysctl \"{name}\""))?;
    }
    set(parameters
        .iter()
        .filter(|(name, _)| !is_network(name) && !is_domain_name(name)))
}

fn set<'a>(parameters: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), Failure> {
    for (name, value) in parameters {
        fs::write(file(name), value).step(|| format!("set linux.sysctl \"{name}\""))?;
    }
    Ok(())
}

fn is_network(name: &str) -> bool {
    name.starts_with("net.") || name.starts_with("net/")
}

/// Dots separate, unless there are slashes: then dots belong to the names (of interfaces).
fn file(name: &str) -> String {
    if name.contains('/') {
        format!("/proc/sys/{name}")
    } else {
        format!("/proc/sys/{}", name.replace('.', "/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_files() {
        assert_eq!(file("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(
            file("net/ipv4/conf/eth0.100/forwarding"),
            "/proc/sys/net/ipv4/conf/eth0.100/forwarding"
        );
    }
}
