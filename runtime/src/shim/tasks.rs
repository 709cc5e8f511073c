//! All tasks of a shim.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use containerd_shim_protos::api::CreateTaskRequest;
use tokio::sync::Notify;

use super::{
    context::Context,
    error::Error,
    lock,
    process::Process,
    reaper::End,
    task::{Announcement, Task},
};

/// The tasks by their ids.
#[derive(Debug)]
pub struct Tasks {
    context: Arc<Context>,
    tasks: Mutex<HashMap<String, Entry>>,
    /// A task is made, or not made, or removed, or not removed.
    settled: Notify,
}

#[derive(Debug)]
enum Entry {
    /// It is being made.
    Making {
        /// Whether it is to be removed then.
        unwanted: bool,
    },
    /// It is there.
    There(Arc<Task>),
    /// It is being removed.
    Leaving(Arc<Task>),
}

impl Tasks {
    /// None yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            tasks: Mutex::default(),
            settled: Notify::new(),
        }
    }

    /// Makes a task.
    ///
    /// # Errors
    /// [`Error::Exists`], or why it could not be made.
    pub async fn create(
        &self,
        request: CreateTaskRequest,
        announcement: Announcement,
    ) -> Result<Arc<Task>, Error> {
        let id = request.id.clone();
        {
            let mut tasks = lock(&self.tasks);
            if tasks.contains_key(&id) {
                return Err(Error::Exists(format!("task {id}")));
            }
            tasks.insert(id.clone(), Entry::Making { unwanted: false });
        }
        let created = Task::create(&self.context, request, announcement).await;
        self.settle(&id, created.as_ref().ok().cloned());
        created
    }

    /// A task that is there.
    ///
    /// # Errors
    /// [`Error::NoTask`].
    pub fn get(&self, id: &str) -> Result<Arc<Task>, Error> {
        match lock(&self.tasks).get(id) {
            Some(Entry::There(task) | Entry::Leaving(task)) => Ok(Arc::clone(task)),
            Some(Entry::Making { .. }) | None => Err(Error::NoTask(id.to_owned())),
        }
    }

    /// A task that is to be removed. If it is being made, that is waited for: who asked for it may not wait any more.
    ///
    /// # Errors
    /// [`Error::NoTask`].
    pub async fn get_unwanted(&self, id: &str) -> Result<Arc<Task>, Error> {
        loop {
            let settled = self.settled.notified();
            if let Some(Entry::Making { unwanted }) = lock(&self.tasks).get_mut(id) {
                *unwanted = true;
            } else {
                return self.get(id);
            }
            settled.await;
        }
    }

    /// A process of a task; the first one has no name.
    ///
    /// # Errors
    /// [`Error::NoTask`], [`Error::NoProcess`].
    pub fn process(&self, id: &str, exec_id: &str) -> Result<(Arc<Task>, Arc<Process>), Error> {
        let task = self.get(id)?;
        let process = task.process(exec_id)?;
        Ok((task, process))
    }

    /// Removes what is left of a task, and forgets it. Answers its pid and its end.
    ///
    /// # Errors
    /// See [`Task::delete`].
    pub async fn delete(&self, task: &Arc<Task>) -> Result<(u32, End), Error> {
        if let Some(entry) = lock(&self.tasks).get_mut(&task.id) {
            *entry = Entry::Leaving(Arc::clone(task));
        }
        let deleted = task.delete().await;
        let stays = deleted.is_err().then(|| Arc::clone(task));
        self.settle(&task.id, stays);
        deleted
    }

    fn settle(&self, id: &str, task: Option<Arc<Task>>) {
        let mut tasks = lock(&self.tasks);
        match (tasks.get_mut(id), task) {
            (Some(entry @ Entry::Making { unwanted: true }), Some(task)) => *entry = Entry::Leaving(task),
            (Some(entry), Some(task)) => *entry = Entry::There(task),
            // Somebody else has removed it.
            (None, Some(_)) => {}
            (_, None) => drop(tasks.remove(id)),
        }
        self.settled.notify_waiters();
    }

    /// Whether there is none, once those are settled that are being made or removed. It is not waited for them if others
    /// are there.
    pub async fn are_gone(&self) -> bool {
        loop {
            let settled = self.settled.notified();
            {
                let tasks = lock(&self.tasks);
                if tasks.is_empty() {
                    return true;
                }
                if tasks.values().any(|entry| matches!(entry, Entry::There(_))) {
                    return false;
                }
            }
            settled.await;
        }
    }
}
