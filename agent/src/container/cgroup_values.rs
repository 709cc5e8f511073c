//! Turns linux.resources into the files of a version 2 cgroup and what to write to them. Limits that name the host's
//! processors, memory nodes or block devices are kept on the host and do not come here.

use std::fmt::Display;

use bulkhead_agent_protocol::spec::weight_of_shares;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::spec::SpecError;

/// One file of a cgroup, what to write to it, and the field of config.json that asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file's name.
    pub file: String,
    /// Its new content.
    pub value: String,
    /// The field, for errors.
    pub field: String,
}

fn setting(file: impl Into<String>, value: impl Display, field: impl Into<String>) -> Setting {
    Setting {
        file: file.into(),
        value: value.to_string(),
        field: format!("linux.resources.{}", field.into()),
    }
}

/// All settings, in the order in which they must be written; the free `unified` ones last.
///
/// # Errors
/// The first field whose value makes no sense.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, SpecError> {
    let mut all = Vec::new();
    if let Some(value) = resources.memory() {
        memory(value, &mut all)?;
    }
    if let Some(value) = resources.cpu() {
        cpu(value, &mut all);
    }
    if let Some(pids) = resources.pids() {
        // Zero forbids to fork; the first process itself must be able to be there.
        let limit = if pids.limit() == 0 { 1 } else { pids.limit() };
        all.push(setting("pids.max", or_max(limit), "pids.limit"));
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let field = format!("hugepageLimits[{index}]");
        check_name(limit.page_size(), &field)?;
        all.push(setting(
            format!("hugetlb.{}.max", limit.page_size()),
            or_max(limit.limit()),
            field,
        ));
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        let field = format!("unified \"{file}\"");
        check_name(file, &field)?;
        if !file.contains('.') || file.starts_with("cgroup.") {
            return Err(SpecError::invalid(
                format!("linux.resources.{field}"),
                "is no file of a controller",
            ));
        }
        all.extend(
            value
                .lines()
                .map(|line| setting(file.as_str(), line, field.as_str())),
        );
    }
    Ok(all)
}

fn check_name(name: &str, field: &str) -> Result<(), SpecError> {
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(SpecError::invalid(
            format!("linux.resources.{field}"),
            "is no file name",
        ));
    }
    Ok(())
}

fn or_max(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

fn memory(memory: &LinuxMemory, all: &mut Vec<Setting>) -> Result<(), SpecError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let both = memory.swap().filter(|swap| *swap != 0);
    // Config.json counts memory and swap together, the kernel apart.
    let swap = match (both, limit) {
        (Some(both), _) if both < 0 => Some(-1),
        (Some(both), Some(limit)) if limit > 0 => {
            Some(both.checked_sub(limit).filter(|swap| *swap >= 0).ok_or_else(|| {
                SpecError::invalid(
                    "linux.resources.memory.swap",
                    "is less than linux.resources.memory.limit",
                )
            })?)
        }
        (Some(_), _) => {
            return Err(SpecError::invalid(
                "linux.resources.memory.swap",
                "needs linux.resources.memory.limit",
            ));
        }
        (None, Some(limit)) if limit < 0 => Some(-1),
        (None, _) => None,
    };
    all.extend(swap.map(|swap| setting("memory.swap.max", or_max(swap), "memory.swap")));
    all.extend(limit.map(|limit| setting("memory.max", or_max(limit), "memory.limit")));
    let reservation = memory.reservation().filter(|reservation| *reservation != 0);
    all.extend(reservation.map(|low| setting("memory.low", or_max(low), "memory.reservation")));
    Ok(())
}

fn cpu(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    if let Some(idle) = cpu.idle() {
        all.push(setting("cpu.idle", idle, "cpu.idle"));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        // An idle cgroup has no weight.
        if cpu.idle().unwrap_or_default() == 0 {
            all.push(setting("cpu.weight", weight_of_shares(shares), "cpu.shares"));
        }
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = or_max(quota.unwrap_or(-1));
        let period = period.unwrap_or(100_000);
        all.push(setting("cpu.max", format!("{quota} {period}"), "cpu.quota"));
    }
    if let Some(burst) = cpu.burst() {
        all.push(setting("cpu.max.burst", burst, "cpu.burst"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(resources: serde_json::Value) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        settings(&resources)
            .unwrap()
            .iter()
            .map(|setting| format!("{}={}", setting.file, setting.value))
            .collect()
    }

    fn error(resources: serde_json::Value) -> String {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        settings(&resources).unwrap_err().to_string()
    }

    #[test]
    fn weights_keep_least_default_and_most() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 100, 10_000]);
        assert!(weight_of_shares(2048) > weight_of_shares(1024));
    }

    #[test]
    fn swap_is_counted_apart() {
        assert_eq!(
            lines(json!({"memory": {"limit": 100, "swap": 300, "reservation": 50}})),
            ["memory.swap.max=200", "memory.max=100", "memory.low=50"]
        );
        assert_eq!(
            lines(json!({"memory": {"limit": -1}})),
            ["memory.swap.max=max", "memory.max=max"]
        );
        assert_eq!(
            error(json!({"memory": {"limit": 100, "swap": 50}})),
            "linux.resources.memory.swap: is less than linux.resources.memory.limit"
        );
    }

    #[test]
    fn processors_are_limited() {
        assert_eq!(
            lines(json!({"cpu": {"shares": 1024, "quota": 50000, "period": 200_000, "burst": 1}})),
            ["cpu.weight=100", "cpu.max=50000 200000", "cpu.max.burst=1"]
        );
        assert_eq!(
            lines(json!({"cpu": {"idle": 1, "shares": 9, "quota": -1}})),
            ["cpu.idle=1", "cpu.max=max 100000"]
        );
    }

    #[test]
    fn processes_are_limited() {
        assert_eq!(lines(json!({"pids": {"limit": -1}})), ["pids.max=max"]);
        assert_eq!(lines(json!({"pids": {"limit": 0}})), ["pids.max=1"]);
    }

    #[test]
    fn unified_files_cannot_leave_the_cgroup() {
        assert_eq!(lines(json!({"unified": {"memory.high": "1"}})), ["memory.high=1"]);
        for name in ["../memory.max", "cgroup.procs", "memory", ""] {
            assert!(
                error(json!({"unified": {name: "1"}})).contains("linux.resources.unified"),
                "{name}"
            );
        }
        assert!(
            error(json!({"hugepageLimits": [{"pageSize": "../x", "limit": 0}]})).contains("no file name")
        );
    }
}
