//! Whether the guest's agent still answers.

use std::time::Duration;

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Agent, AgentError, StartError, VmmControl};

/// How often in a row it is asked in vain. One question alone may be lost to a process that was itself stopped for a while.
const QUESTIONS: u32 = 3;

/// Asks the agent from time to time, until this is dropped.
pub struct Heartbeat {
    pulse: Pulse,
    task: Option<JoinHandle<()>>,
}

/// What a heartbeat tells.
#[derive(Clone)]
pub struct Pulse {
    has_stopped: watch::Receiver<bool>,
    seconds: u32,
    control: VmmControl,
}

impl Heartbeat {
    /// Begins to ask. That an agent does not answer is known so many seconds after its last answer; 0: never, and it is not
    /// asked.
    pub fn start(agent: Agent, control: VmmControl, seconds: u32) -> Self {
        let (stopped, has_stopped) = watch::channel(false);
        let limit = Duration::from_secs(seconds.into());
        let task = (seconds > 0).then(|| {
            tokio::spawn(async move {
                if watch_over(limit, || agent.describe()).await {
                    // Who does not listen has the microVM's end already.
                    let _ = stopped.send(true);
                }
            })
        });
        let pulse = Pulse {
            has_stopped,
            seconds,
            control,
        };
        Self { pulse, task }
    }

    /// What it tells.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Pulse {
    /// Returns when the agent has not answered for too long, with what is to be said about that.
    pub async fn stopped(mut self) -> StartError {
        // An agent that has gone is seen by its VMM's end.
        if self.has_stopped.wait_for(|stopped| *stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
        StartError::Hangs {
            seconds: self.seconds,
            console: self.control.last_words().await,
        }
    }
}

/// Asks until there is no answer any more: whether it is because nobody answers, and not because the connection is broken.
async fn watch_over<F>(limit: Duration, ask: impl Fn() -> F) -> bool
where
    F: Future<Output = Result<(), AgentError>>,
{
    let interval = limit / (QUESTIONS + 1);
    let mut unanswered = 0;
    while unanswered < QUESTIONS {
        if unanswered == 0 {
            sleep(interval).await;
        }
        match timeout(interval, ask()).await {
            Ok(Ok(()) | Err(AgentError::Refused(_))) => unanswered = 0,
            Ok(Err(AgentError::Lost(_))) => return false,
            Err(_) => unanswered += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What comes of questions that get these answers, and then none: whether the agent hangs, and after how many questions.
    async fn asked(answers: &[Option<Result<(), AgentError>>]) -> (bool, usize) {
        let count = Cell::new(0);
        let hangs = watch_over(Duration::from_millis(40), || {
            let answer = answers.get(count.get()).cloned().flatten();
            count.set(count.get() + 1);
            async {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        (hangs.await, count.get())
    }

    #[tokio::test]
    async fn an_agent_hangs_that_does_not_answer_several_times_in_a_row() {
        let yes = Some(Ok(()));
        assert_eq!(asked(&[]).await, (true, 3));
        assert_eq!(
            asked(&[yes.clone(), None, None, yes.clone(), None]).await,
            (true, 7)
        );
        let refused = Some(Err(AgentError::Refused("no".to_owned())));
        assert_eq!(asked(&[refused]).await, (true, 4), "that is an answer");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_another_matter() {
        let lost = Some(Err(AgentError::Lost("end of file".to_owned())));
        assert_eq!(asked(&[None, lost]).await, (false, 2));
    }
}
