//! How a process is scheduled: policy, I/O priority, processors, execution domain.

use oci_spec::runtime::{IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Deserialize;

use crate::{
    container::spec::SpecError,
    failure::{Failure, Step},
    syscalls::{self, SchedulingAttributes},
};

/// process.scheduler. The type of oci-spec has two flags by other names than the specification's.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "they are the fields of the runtime specification")]
pub struct Scheduler {
    pub policy: SchedulerPolicy,
    pub nice: Option<i32>,
    pub priority: Option<i32>,
    pub flags: Option<Vec<SchedulerFlag>>,
    pub runtime: Option<u64>,
    pub deadline: Option<u64>,
    pub period: Option<u64>,
}

/// A policy, with the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "they are the words of the runtime specification")]
pub enum SchedulerPolicy {
    #[serde(rename = "SCHED_OTHER")]
    Other = 0,
    #[serde(rename = "SCHED_FIFO")]
    Fifo = 1,
    #[serde(rename = "SCHED_RR")]
    RoundRobin = 2,
    #[serde(rename = "SCHED_BATCH")]
    Batch = 3,
    #[serde(rename = "SCHED_ISO")]
    Iso = 4,
    #[serde(rename = "SCHED_IDLE")]
    Idle = 5,
    #[serde(rename = "SCHED_DEADLINE")]
    Deadline = 6,
}

/// A flag, with the kernel's bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "they are the words of the runtime specification")]
pub enum SchedulerFlag {
    #[serde(rename = "SCHED_FLAG_RESET_ON_FORK")]
    ResetOnFork = 0x01,
    #[serde(rename = "SCHED_FLAG_RECLAIM")]
    Reclaim = 0x02,
    #[serde(rename = "SCHED_FLAG_DL_OVERRUN")]
    DeadlineOverrun = 0x04,
    #[serde(rename = "SCHED_FLAG_KEEP_POLICY")]
    KeepPolicy = 0x08,
    #[serde(rename = "SCHED_FLAG_KEEP_PARAMS")]
    KeepParameters = 0x10,
    #[serde(rename = "SCHED_FLAG_UTIL_CLAMP_MIN")]
    LeastUtilization = 0x20,
    #[serde(rename = "SCHED_FLAG_UTIL_CLAMP_MAX")]
    MostUtilization = 0x40,
}

/// Sets process.scheduler.
///
/// # Errors
/// Names the field.
pub fn set_scheduler(scheduler: &Scheduler) -> Result<(), Failure> {
    let flags = scheduler.flags.iter().flatten();
    syscalls::sched_setattr(SchedulingAttributes {
        policy: scheduler.policy as u32,
        flags: flags.fold(0, |flags, flag| flags | *flag as u64),
        nice: scheduler.nice.unwrap_or_default(),
        priority: scheduler.priority.unwrap_or_default().cast_unsigned(),
        runtime: scheduler.runtime.unwrap_or_default(),
        deadline: scheduler.deadline.unwrap_or_default(),
        period: scheduler.period.unwrap_or_default(),
        ..SchedulingAttributes::default()
    })
    .step(|| "set process.scheduler")
}

/// Sets process.ioPriority.
///
/// # Errors
/// Names the field.
pub fn set_io_priority(priority: &LinuxIOPriority) -> Result<(), Failure> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u8::try_from(priority.priority())
        .ok()
        .filter(|level| *level < 8)
        .ok_or_else(|| {
            Failure::new(format!(
                "set process.ioPriority: {} is none of 0 to 7",
                priority.priority()
            ))
        })?;
    syscalls::ioprio_set(class, level).step(|| "set process.ioPriority")
}

/// Sets linux.personality.
///
/// # Errors
/// Names the field.
pub fn set_personality(personality: &LinuxPersonality) -> Result<(), Failure> {
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    syscalls::personality(domain).step(|| "set linux.personality")
}

/// Reads a list of processors such as `0-3,7`.
///
/// # Errors
/// Names the field when it is no such list.
pub fn parse_processors(field: &str, list: &str) -> Result<CpuSet, SpecError> {
    let wrong = || SpecError::invalid(field, format!("\"{list}\" is no list of processors"));
    let mut set = CpuSet::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| {
            text.parse::<usize>()
                .ok()
                .filter(|number| *number < CpuSet::MAX_CPU)
                .ok_or_else(wrong)
        };
        for processor in number(first)?..=number(last)? {
            set.set(processor);
        }
    }
    Ok(set)
}

/// Confines the process to the processors given.
///
/// # Errors
/// Names the field.
pub fn set_processors(processors: &CpuSet) -> Result<(), Failure> {
    sched_setaffinity(None, processors).step(|| "set process.execCPUAffinity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_specification() {
        let scheduler: Scheduler = serde_json::from_str(
            r#"{"policy": "SCHED_RR", "priority": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN",
                "SCHED_FLAG_RECLAIM", "SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN",
                "SCHED_FLAG_UTIL_CLAMP_MAX"]}"#,
        )
        .unwrap();
        assert_eq!(scheduler.policy, SchedulerPolicy::RoundRobin);
        let bits = scheduler
            .flags
            .unwrap()
            .iter()
            .fold(0, |bits, flag| bits | *flag as u64);
        assert_eq!(bits, 0x7f);
    }

    #[test]
    fn lists_of_processors_are_read() {
        let set = parse_processors("f", "0-2,7").unwrap();
        assert_eq!(set.count(), 4);
        assert!(set.is_set(7) && set.is_set(1) && !set.is_set(3));
        for list in ["", "x", "1-", "4096", "0-99999999999"] {
            assert!(parse_processors("f", list).is_err(), "{list}");
        }
    }
}
