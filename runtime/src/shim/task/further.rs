//! Further processes of a container.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use containerd_shim_protos::{
    api::ExecProcessRequest,
    events::task::{TaskExecAdded, TaskExecStarted},
};
use serde_json::Value;

use super::Task;
use crate::{
    sandbox::Id,
    shim::{
        error::Error,
        lock,
        logger::Origin,
        process::{Process, Progress},
        reaper::End,
        stream_names::StreamNames,
        streams::{Rest, Streams},
    },
};

/// A further process.
#[derive(Debug)]
pub struct Further {
    /// As containerd knows it.
    pub process: Arc<Process>,
    /// What the agent calls it: unlike any that was there before.
    pub name: String,
    /// The process object, JSON.
    spec: Vec<u8>,
    pid_file: PathBuf,
}

impl Task {
    /// A process; the first one has no name.
    ///
    /// # Errors
    /// [`Error::NoProcess`].
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, Error> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        Ok(Arc::clone(&self.further(exec_id)?.process))
    }

    pub(super) fn further(&self, exec_id: &str) -> Result<Arc<Further>, Error> {
        let further = lock(&self.further).get(exec_id).cloned();
        further.ok_or_else(|| Error::NoProcess {
            task: self.id.clone(),
            process: exec_id.to_owned(),
        })
    }

    /// Takes note of a further process, which can be started then.
    ///
    /// # Errors
    /// The name is taken or cannot be one, the container has ended, or the description is no JSON object.
    pub fn add(&self, request: ExecProcessRequest) -> Result<(), Error> {
        let exec_id = request.exec_id;
        // It is part of a file's name.
        if exec_id.parse::<Id>().is_err() {
            return Err(Error::Invalid {
                what: "exec_id",
                problem: format!("{exec_id:?} is no name"),
            });
        }
        self.init.ensure_alive("execute a process in", &self.id)?;
        let invalid = |problem: String| Error::Invalid {
            what: "spec",
            problem,
        };
        let mut spec: Value =
            serde_json::from_slice(&request.spec.value).map_err(|error| invalid(error.to_string()))?;
        let members = spec
            .as_object_mut()
            .ok_or_else(|| invalid("is no JSON object".to_owned()))?;
        members.insert("terminal".to_owned(), request.terminal.into());
        let names = StreamNames {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let further = Further {
            process: Arc::new(Process::new(names, Progress::Added, Rest::default())),
            name: format!("{exec_id}.{}", self.count.fetch_add(1, Ordering::Relaxed)),
            spec: spec.to_string().into_bytes(),
            pid_file: self.bundle.join(format!("{exec_id}.pid")),
        };
        {
            let mut all = lock(&self.further);
            if all.contains_key(&exec_id) {
                return Err(Error::Exists(format!("process {exec_id} of task {}", self.id)));
            }
            all.insert(exec_id.clone(), Arc::new(further));
        }
        self.tell(&TaskExecAdded {
            container_id: self.id.clone(),
            exec_id,
            ..TaskExecAdded::default()
        });
        Ok(())
    }

    /// Starts a further process. Returns when its program has been executed.
    ///
    /// # Errors
    /// It has been started, or the program cannot be executed.
    pub async fn start_further(self: &Arc<Self>, exec_id: &str) -> Result<u32, Error> {
        let further = self.further(exec_id)?;
        let process = &further.process;
        let _order = process.order.lock().await;
        if process.progress() != Progress::Added {
            return Err(self.wrong_status("start a process again", process.progress().word()));
        }
        let context = &self.context;
        let origin = Origin {
            id: exec_id,
            namespace: &context.namespace,
        };
        let streams = Streams::open(&process.streams, origin, &context.reaper).await?;
        let standin = self
            .commands
            .exec(
                &self.id,
                &further.name,
                &further.spec,
                &further.pid_file,
                streams.descriptors,
            )
            .await?;
        process.keep(streams.rest);
        let pid = standin.pid;
        process.advance(Progress::Running { pid });
        self.tell(&TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            pid: pid.unsigned_abs(),
            ..TaskExecStarted::default()
        });
        let (task, exec_id, process) = (Arc::clone(self), exec_id.to_owned(), Arc::clone(process));
        tokio::spawn(async move {
            // The reaper tells of every child.
            let Ok(end) = standin.end.await else { return };
            let _order = process.order.lock().await;
            task.tell_of_end(&exec_id, pid.unsigned_abs(), end);
            process.advance(Progress::Ended { pid, end });
        });
        Ok(pid.unsigned_abs())
    }

    /// Forgets a further process. Answers its pid, and its end if it was ever started.
    ///
    /// # Errors
    /// It runs.
    pub async fn delete_further(&self, exec_id: &str) -> Result<(u32, Option<End>), Error> {
        let further = self.further(exec_id)?;
        let progress = further.process.progress();
        if let Progress::Running { .. } = progress {
            return Err(self.wrong_status("delete a process", progress.word()));
        }
        further.process.close_input();
        further.process.finish_loggers().await;
        lock(&self.further).remove(exec_id);
        // It is not there if the process was never started.
        let _ = std::fs::remove_file(&further.pid_file);
        Ok((progress.pid(), progress.end()))
    }
}
