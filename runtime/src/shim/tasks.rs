//! All tasks of a shim.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use containerd_shim_protos::api::CreateTaskRequest;

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
    /// None: it is being made.
    tasks: Mutex<HashMap<String, Option<Arc<Task>>>>,
}

impl Tasks {
    /// None yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            tasks: Mutex::default(),
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
            tasks.insert(id.clone(), None);
        }
        let created = Task::create(&self.context, request, announcement).await;
        let mut tasks = lock(&self.tasks);
        match &created {
            Ok(task) => drop(tasks.insert(id, Some(Arc::clone(task)))),
            Err(_) => drop(tasks.remove(&id)),
        }
        created
    }

    /// A task that is there.
    ///
    /// # Errors
    /// [`Error::NoTask`].
    pub fn get(&self, id: &str) -> Result<Arc<Task>, Error> {
        let task = lock(&self.tasks).get(id).cloned().flatten();
        task.ok_or_else(|| Error::NoTask(id.to_owned()))
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
    pub async fn delete(&self, task: &Task) -> Result<(u32, End), Error> {
        let deleted = task.delete().await?;
        lock(&self.tasks).remove(&task.id);
        Ok(deleted)
    }

    /// Whether there is none, and none in the making.
    pub fn is_empty(&self) -> bool {
        lock(&self.tasks).is_empty()
    }
}
