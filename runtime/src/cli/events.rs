//! `bulkhead events`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Error, Global, Status, event_loop, io, output};
use crate::{
    container::Stats,
    sandbox::{Agent, AgentError, GuestSocket, Status as ContainerStatus},
};

/// Print a container's figures again and again, and that it is out of memory
///
/// One JSON object a line, until the container ends.
#[derive(Debug, Args)]
pub struct Events {
    /// Print the figures once
    #[arg(long)]
    stats: bool,
    /// Time between figures, as in 500ms or 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_interval)]
    interval: Duration,
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
}

/// A line.
#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than nothing".to_owned()),
        Ok(interval) => Ok(interval),
        Err(error) => Err(error.to_string()),
    }
}

impl Events {
    pub fn execute(self, global: &Global) -> Status {
        let (_, state) = global.container(self.id)?;
        match state.current_status() {
            ContainerStatus::Created | ContainerStatus::Running | ContainerStatus::Paused => {}
            _ => return Err(Error::NoEvents(state.id)),
        }
        let guest = GuestSocket::of(&global.folder(&state.sandbox)?)?;
        let runtime = event_loop()?;
        let id = state.id.as_str();
        runtime.block_on(async {
            let agent = Agent::connect(&guest).await?;
            if self.stats {
                return print_stats(&agent, id).await;
            }
            match watch(&agent, id, self.interval).await {
                // The container has ended, and its guest perhaps with it.
                Err(Error::Agent(AgentError::Refused(_) | AgentError::Lost(_))) => Ok(()),
                result => result,
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints figures at each interval, and want of memory when it comes, until the container ends.
async fn watch(agent: &Agent, id: &str, interval: Duration) -> Result<(), Error> {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let out_of_memory = async {
        let mut known = 0;
        loop {
            let count = agent.wait_oom(id, known).await?;
            if count <= known {
                return Ok(());
            }
            known = count;
            print("oom", id, None)?;
        }
    };
    let figures = async {
        loop {
            ticks.tick().await;
            print_stats(agent, id).await?;
        }
    };
    tokio::select! {
        biased;
        ended = out_of_memory => ended,
        failed = figures => failed,
    }
}

async fn print_stats(agent: &Agent, id: &str) -> Result<(), Error> {
    let stats = Stats::of(agent.stats(id).await?);
    print("stats", id, Some(stats))
}

fn print(r#type: &'static str, id: &str, data: Option<Stats>) -> Result<(), Error> {
    let event = Event { r#type, id, data };
    let mut line = serde_json::to_string(&event).map_err(|error| io("write the event")(error.into()))?;
    line.push('\n');
    output::print(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_callers_write_them() {
        for (text, milliseconds) in [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(
                parse_interval(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "0s", "5", "-5s", "x"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn want_of_memory_has_no_data() {
        let event = Event {
            r#type: "oom",
            id: "c1",
            data: None,
        };
        assert_eq!(
            serde_json::to_string(&event).expect("serialisable"),
            r#"{"type":"oom","id":"c1"}"#
        );
    }
}
