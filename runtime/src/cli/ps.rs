//! `bulkhead ps`

use std::{process::ExitCode, time::SystemTime};

use bulkhead_agent_protocol::messages::ProcessInfo;
use clap::Args;

use super::{Error, Global, Status, event_loop, output::print};
use crate::{
    clock::LocalTime,
    sandbox::{Agent, GuestSocket, State, Status as ContainerStatus},
};

/// List the processes of a container, by their ids in its virtual machine
#[derive(Debug, Args)]
pub struct Ps {
    /// How they are listed
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
    /// The container's name
    #[arg(value_name = "ID")]
    id: String,
    /// Options of ps(1); -e and -f are what is done anyway, and there are no others
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// How processes are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// As `ps -ef` does
    #[default]
    Table,
    /// Their ids, as a JSON list
    Json,
}

impl Ps {
    pub fn execute(self, global: &Global) -> Status {
        if let Some(option) = self.options.iter().find(|option| !is_known(option)) {
            return Err(Error::PsOption(option.clone()));
        }
        let (_, state) = global.container(self.id)?;
        let processes = match state.current_status() {
            ContainerStatus::Stopped => Vec::new(),
            _ => list(global, &state)?,
        };
        let text = match self.format {
            Format::Table => table(&processes, SystemTime::now()),
            Format::Json => {
                let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
                format!("{}\n", serde_json::json!(pids))
            }
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether an option asks for what is done anyway.
fn is_known(option: &str) -> bool {
    let letters = option.strip_prefix('-').unwrap_or_default();
    !letters.is_empty() && letters.chars().all(|letter| "ef".contains(letter))
}

fn list(global: &Global, state: &State) -> Result<Vec<ProcessInfo>, Error> {
    let guest = GuestSocket::of(&global.folder(&state.sandbox)?)?;
    let runtime = event_loop()?;
    runtime.block_on(async {
        let agent = Agent::connect(&guest).await?;
        Ok(agent.processes(state.id.as_str()).await?)
    })
}

/// The columns of `ps -ef`.
fn table(processes: &[ProcessInfo], now: SystemTime) -> String {
    let mut text = "UID          PID    PPID  C STIME TTY          TIME CMD\n".to_owned();
    for process in processes {
        let user = match process.uid {
            0 => "root".to_owned(),
            uid => uid.to_string(),
        };
        let terminal = match process.terminal.as_str() {
            "" => "?",
            terminal => terminal,
        };
        text.push_str(&format!(
            "{user:<8} {:>7} {:>7} {:>2} {:>5} {terminal:<8} {:>8} {}\n",
            process.pid,
            process.parent,
            usage(process, now),
            start_time(process.started_at_nanos, now),
            processor_time(process.cpu_nanos),
            process.command,
        ));
    }
    text
}

fn nanos_since_epoch(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Processor time in percent of the time since the start.
fn usage(process: &ProcessInfo, now: SystemTime) -> u64 {
    let age = nanos_since_epoch(now).saturating_sub(process.started_at_nanos);
    let age = u128::try_from(age).unwrap_or_default().max(1);
    u64::try_from(u128::from(process.cpu_nanos) * 100 / age)
        .unwrap_or(u64::MAX)
        .min(99)
}

/// Hour and minute of a start today, the day of one before, the year of one in another year.
fn start_time(started_at_nanos: i64, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = |nanos: i64| nanos.div_euclid(1_000_000_000);
    let (Some(start), Some(now)) = (
        LocalTime::of(seconds(started_at_nanos)),
        LocalTime::of(seconds(nanos_since_epoch(now))),
    ) else {
        return "?".to_owned();
    };
    if start.year != now.year {
        start.year.to_string()
    } else if start.day_of_year != now.day_of_year {
        let month = MONTHS.get(start.month).copied().unwrap_or("?");
        format!("{month}{:02}", start.day)
    } else {
        format!("{:02}:{:02}", start.hour, start.minute)
    }
}

/// As `hours:minutes:seconds`.
fn processor_time(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_is_a_line_of_ps() {
        const NOW: u64 = 1_800_000_000;
        let process = ProcessInfo {
            pid: 174,
            parent: 1,
            uid: 0,
            terminal: "pts/0".to_owned(),
            started_at_nanos: (NOW as i64 - 1000) * 1_000_000_000,
            cpu_nanos: 3_725 * 1_000_000_000 / 10,
            command: "sleep 1000".to_owned(),
            ..ProcessInfo::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let text = table(&[process], now);
        let line = text.lines().nth(1).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..4], ["root", "174", "1", "37"]);
        assert_eq!(words[5..], ["pts/0", "00:06:12", "sleep", "1000"]);
    }

    #[test]
    fn a_start_long_ago_is_told_by_its_day_or_year() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let days_ago = |days: i64| start_time((1_800_000_000 - days * 86_400) * 1_000_000_000, now);
        assert_eq!(days_ago(400).len(), 4);
        assert_eq!(days_ago(3).len(), 5);
        assert!(!days_ago(3).contains(':'));
        assert!(days_ago(0).contains(':'));
    }

    #[test]
    fn only_options_that_change_nothing_are_known() {
        for option in ["-ef", "-e", "-f", "-fe"] {
            assert!(is_known(option), "{option}");
        }
        for option in ["", "-", "aux", "-o", "pid", "-efl"] {
            assert!(!is_known(option), "{option}");
        }
    }
}
