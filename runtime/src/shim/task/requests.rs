//! What is asked of a container between its start and its end.

use std::{sync::Arc, time::Duration};

use bulkhead_agent_protocol::messages::CgroupFile;
use containerd_shim_protos::{
    api::Status,
    events::task::{TaskPaused, TaskResumed},
};
use serde_json::{Value, json};

use super::Task;
use crate::{
    container::control::{ControlError, Request},
    oci::changed_limits,
    sandbox::{AgentError, Status as ContainerStatus},
    shim::{
        error::Error,
        process::{Process, Progress},
    },
};

/// How long the output of a process that has been killed may take to be read by somebody.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

const KILL: u32 = libc::SIGKILL.unsigned_abs();

/// The largest signal's number.
const LAST_SIGNAL: u32 = 64;

impl Task {
    /// Sends a signal to a process, or to `all` of the container's.
    ///
    /// # Errors
    /// [`Error::Finished`], or there is no such signal.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), Error> {
        if !(1..=LAST_SIGNAL).contains(&signal) {
            return Err(Error::Signal(signal));
        }
        let process = self.process(exec_id)?;
        let what = if exec_id.is_empty() { &self.id } else { exec_id };
        process.ensure_alive("signal", what)?;
        let sent = async {
            let agent = self.agent().await?;
            if exec_id.is_empty() {
                agent.signal(&self.id, signal, all).await?;
            } else {
                let name = self.further(exec_id)?.name.clone();
                agent.process(&self.id, &name).signal(signal).await?;
            }
            Ok::<_, Error>(())
        };
        let sent = match sent.await {
            // It has ended, and its guest perhaps with it.
            Err(Error::Agent(AgentError::Refused(_) | AgentError::Lost(_))) => {
                Err(Error::Finished(what.to_owned()))
            }
            sent => sent,
        };
        if signal == KILL {
            tokio::spawn(end_output(process));
        }
        sent
    }

    /// Tells a process's terminal its size.
    ///
    /// # Errors
    /// It has none, or has ended.
    pub async fn resize(&self, exec_id: &str, columns: u32, rows: u32) -> Result<(), Error> {
        let process = self.process(exec_id)?;
        let what = if exec_id.is_empty() { &self.id } else { exec_id };
        process.ensure_alive("resize", what)?;
        if !process.streams.terminal {
            return Err(Error::NoTerminal(what.to_owned()));
        }
        let agent = self.agent().await?;
        if exec_id.is_empty() {
            agent.resize(&self.id, rows, columns).await?;
        } else {
            let name = self.further(exec_id)?.name.clone();
            agent.process(&self.id, &name).resize(rows, columns).await?;
        }
        Ok(())
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// It does not run, or does not stand still.
    pub async fn pause(&self) -> Result<(), Error> {
        match self.record()?.current_status() {
            ContainerStatus::Running => self.ask(Request::Pause {}).await?,
            _ => return Err(ControlError::NotRunning.into()),
        }
        self.tell(&TaskPaused {
            container_id: self.id.clone(),
            ..TaskPaused::default()
        });
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is not paused.
    pub async fn resume(&self) -> Result<(), Error> {
        match self.record()?.current_status() {
            ContainerStatus::Paused => self.ask(Request::Resume {}).await?,
            _ => return Err(ControlError::NotPaused.into()),
        }
        self.tell(&TaskResumed {
            container_id: self.id.clone(),
            ..TaskResumed::default()
        });
        Ok(())
    }

    /// Changes its limits: `resources` is JSON like `linux.resources` of `config.json`.
    ///
    /// # Errors
    /// A field that cannot be honoured, or the container has ended.
    pub async fn update(&self, resources: &[u8]) -> Result<(), Error> {
        let invalid = |problem: String| Error::Invalid {
            what: "resources",
            problem,
        };
        let resources: Value =
            serde_json::from_slice(resources).map_err(|error| invalid(error.to_string()))?;
        if !resources.is_object() {
            return Err(invalid("is no JSON object".to_owned()));
        }
        match changed_limits(&json!({"resources": resources}))? {
            Some(resources) => self.ask(Request::Update { resources }).await,
            None => Ok(()),
        }
    }

    /// The pids of its processes in the guest. Of one that has ended the pid that it had, so that containerd, when it is
    /// restarted, does not take the task for one that was never created.
    ///
    /// # Errors
    /// The guest does not answer.
    pub async fn pids(&self) -> Result<Vec<u32>, Error> {
        let progress = self.init.progress();
        if progress.end().is_some() {
            return Ok(vec![progress.pid()]);
        }
        let processes = self.agent().await?.processes(&self.id).await?;
        Ok(processes.into_iter().map(|process| process.pid).collect())
    }

    /// The files of its cgroup in the guest.
    ///
    /// # Errors
    /// It has ended.
    pub async fn figures(&self) -> Result<Vec<CgroupFile>, Error> {
        self.init.ensure_alive("measure", &self.id)?;
        Ok(self.agent().await?.stats(&self.id).await?)
    }

    /// What a process is doing.
    pub fn status(&self, process: &Process) -> Status {
        let progress = process.progress();
        let is_paused = || {
            self.record()
                .is_ok_and(|record| record.current_status() == ContainerStatus::Paused)
        };
        match progress {
            Progress::Running { .. } if is_paused() => Status::PAUSED,
            progress => progress.status(),
        }
    }
}

/// A stand-in whose process has been killed passes the last output on, which nobody may ever read.
async fn end_output(process: Arc<Process>) {
    if tokio::time::timeout(LAST_OUTPUT, process.ended()).await.is_ok() {
        return;
    }
    let (Progress::Created { pid } | Progress::Running { pid }) = process.progress() else {
        return;
    };
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        tracing::warn!(pid = pid.as_raw_pid(), "nobody reads the last output");
        // It is not reaped yet, so the number is its own.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}
