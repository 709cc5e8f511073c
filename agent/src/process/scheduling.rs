//! How a process is scheduled: policy, I/O priority, processors, execution domain.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, Scheduler,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{
    container::spec::SpecError,
    failure::{Failure, Step},
    syscalls::{self, SchedulingAttributes},
};

/// Sets process.scheduler.
///
/// # Errors
/// Names the field.
pub fn set_scheduler(scheduler: &Scheduler) -> Result<(), Failure> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    syscalls::sched_setattr(SchedulingAttributes {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or_default(),
        priority: scheduler.priority().unwrap_or_default().cast_unsigned(),
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
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
    fn lists_of_processors_are_read() {
        let set = parse_processors("f", "0-2,7").unwrap();
        assert_eq!(set.count(), 4);
        assert!(set.is_set(7) && set.is_set(1) && !set.is_set(3));
        for list in ["", "x", "1-", "4096", "0-99999999999"] {
            assert!(parse_processors("f", list).is_err(), "{list}");
        }
    }
}
