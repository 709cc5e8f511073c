//! Which figures there are, and where they come from.

use std::{fs, hash::Hash, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::PATIENCE;
use crate::{
    container::{CgroupFiles, Counts, number},
    sandbox::{Agent, AgentError, GuestSocket, State, StateFolder},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSandbox {
    sandbox: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfContainer {
    sandbox: String,
    container: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStage {
    sandbox: String,
    container: String,
    stage: String,
}

/// Goes up and down.
type Level<L> = Family<L, Gauge<f64, AtomicU64>>;
/// Goes up.
type Count<L> = Family<L, Counter<f64, AtomicU64>>;

/// The figures, by their families.
#[derive(Debug, Default)]
pub struct Figures {
    sandbox_cpu: Count<OfSandbox>,
    sandbox_memory: Level<OfSandbox>,
    guest_answers: Level<OfSandbox>,
    start: Level<OfStage>,
    cpu: Count<OfContainer>,
    memory: Level<OfContainer>,
    processes: Level<OfContainer>,
    oom_kills: Count<OfContainer>,
}

impl Figures {
    /// All families, without figures yet.
    pub fn register(registry: &mut Registry) -> Self {
        let figures = Self::default();
        let Self {
            sandbox_cpu,
            sandbox_memory,
            guest_answers,
            start,
            cpu,
            memory,
            processes,
            oom_kills,
        } = &figures;
        registry.register_with_unit(
            "sandbox_cpu",
            "Processor time used on the host by a sandbox's processes, its guest included",
            Unit::Seconds,
            sandbox_cpu.clone(),
        );
        registry.register_with_unit(
            "sandbox_memory",
            "Memory used on the host by a sandbox's processes, its guest included",
            Unit::Bytes,
            sandbox_memory.clone(),
        );
        registry.register(
            "sandbox_guest_answers",
            "Whether the guest's agent answers: 1 or 0",
            guest_answers.clone(),
        );
        registry.register_with_unit(
            "start",
            "How long a stage of a container's start took",
            Unit::Seconds,
            start.clone(),
        );
        registry.register_with_unit(
            "container_cpu",
            "Processor time used by a container, counted by its guest",
            Unit::Seconds,
            cpu.clone(),
        );
        registry.register_with_unit(
            "container_memory",
            "Memory used by a container, counted by its guest",
            Unit::Bytes,
            memory.clone(),
        );
        registry.register(
            "container_processes",
            "Processes and threads of a container",
            processes.clone(),
        );
        registry.register(
            "container_oom_kills",
            "Processes of a container that were killed for want of memory",
            oom_kills.clone(),
        );
        figures
    }

    /// Adds those of a sandbox and its members, which include its owner.
    pub async fn collect(&self, folder: &StateFolder, owner: &State, members: &[&State]) {
        let sandbox = OfSandbox {
            sandbox: owner.id.to_string(),
        };
        let read = |file: &str| fs::read_to_string(owner.cgroup.path().join(file)).unwrap_or_default();
        add(
            &self.sandbox_cpu,
            &sandbox,
            Counts::of(&read("cpu.stat")).find("usage_usec").map(seconds),
        );
        set(
            &self.sandbox_memory,
            &sandbox,
            number(&read("memory.current")).map(figure),
        );
        for member in members {
            for (stage, seconds) in &member.stages {
                let stage = OfStage {
                    sandbox: sandbox.sandbox.clone(),
                    container: member.id.to_string(),
                    stage: stage.clone(),
                };
                set(&self.start, &stage, Some(*seconds));
            }
        }
        let answered = tokio::time::timeout(PATIENCE, self.ask(folder, &sandbox, members)).await;
        let answers = f64::from(u8::from(matches!(answered, Ok(Ok(())))));
        set(&self.guest_answers, &sandbox, Some(answers));
    }

    async fn ask(
        &self,
        folder: &StateFolder,
        sandbox: &OfSandbox,
        members: &[&State],
    ) -> Result<(), AgentError> {
        let guest = GuestSocket::of(folder).map_err(|error| AgentError::Lost(error.to_string()))?;
        let agent = Agent::connect(&guest).await?;
        for member in members {
            match agent.stats(member.id.as_str()).await {
                Ok(files) => self.of_container(sandbox, member, &CgroupFiles::new(files)),
                // It has ended, or is a pod's own, which has no processes.
                Err(AgentError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn of_container(&self, sandbox: &OfSandbox, member: &State, files: &CgroupFiles) {
        let container = OfContainer {
            sandbox: sandbox.sandbox.clone(),
            container: member.id.to_string(),
        };
        add(
            &self.cpu,
            &container,
            files.counts("cpu.stat").find("usage_usec").map(seconds),
        );
        set(
            &self.memory,
            &container,
            files.number("memory.current").map(figure),
        );
        set(
            &self.processes,
            &container,
            files.number("pids.current").map(figure),
        );
        add(
            &self.oom_kills,
            &container,
            files.counts("memory.events").find("oom_kill").map(figure),
        );
    }
}

fn set<L: Clone + Eq + Hash>(family: &Level<L>, labels: &L, value: Option<f64>) {
    if let Some(value) = value {
        family.get_or_create(labels).set(value);
    }
}

fn add<L: Clone + Eq + Hash>(family: &Count<L>, labels: &L, value: Option<f64>) {
    if let Some(value) = value {
        family.get_or_create(labels).inc_by(value);
    }
}

fn seconds(microseconds: u64) -> f64 {
    figure(microseconds) / 1e6
}

/// As Prometheus has numbers.
fn figure(number: u64) -> f64 {
    number as f64
}
