//! Where the time of one `bulkhead run` goes.

use super::emulator::Results;
use super::experiments::{rows, subjects};
use super::figures::Figure;
use super::plan::Line;

/// What it is made from.
pub const ROWS: [&str; 4] = [rows::FLOOR, rows::INIT, rows::READY, rows::LOGGED];

/// What a lane of the timeline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The runtime's processes.
    Runtime,
    /// The VMM, as long as its guest does not run.
    Vmm,
    /// The guest.
    Guest,
}

impl Lane {
    /// All, from the host to the guest.
    pub const ALL: [Self; 3] = [Self::Runtime, Self::Vmm, Self::Guest];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Vmm => "VMM",
            Self::Guest => "guest",
        }
    }
}

/// A part of the time, in milliseconds since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Whose.
    pub lane: Lane,
    /// What is done.
    pub what: String,
    /// Its begin.
    pub from: f64,
    /// Its end.
    pub to: f64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// In the order of their begin.
    pub spans: Vec<Span>,
    /// The end of all, milliseconds.
    pub end: f64,
}

impl Timeline {
    /// From what was measured; None if something of it is missing.
    pub fn new(results: &Results, figures: &[Figure]) -> Option<Self> {
        let is_run = |name: &str| name == format!("{}|{}", rows::LOGGED, subjects::BULKHEAD);
        let (_, lines) = results.logs.iter().find(|(name, _)| is_run(name))?;
        let (_, sample) = results.samples.iter().find(|(name, _)| is_run(name))?;
        let median = |row: &str| {
            let ours = |figure: &&Figure| figure.row == row && figure.subject == subjects::BULKHEAD;
            figures.iter().find(ours).map(|figure| figure.median)
        };
        let guest = Boot {
            floor: median(rows::FLOOR)?,
            init: median(rows::INIT)?,
            ready: median(rows::READY)?,
        };
        Self::of(lines, sample.milliseconds, &guest)
    }

    fn of(lines: &[Line], end: f64, boot: &Boot) -> Option<Self> {
        let mut spans: Vec<Span> = lines.iter().filter_map(stage).collect();
        let first = spans.first()?.from;
        let begin = span(
            Lane::Runtime,
            "read config.json, make the cgroup, fork",
            0.0,
            first,
        );
        spans.insert(0, begin);
        let booted = spans.iter().find(|span| span.what == BOOT)?.to;
        spans.extend(boot.before(booted));
        let started = spans.iter().map(|span| span.to).fold(0.0, f64::max);
        let ended = lines.iter().find(|line| line.message == ENDED)?.milliseconds;
        spans.push(span(Lane::Guest, "the program", started.min(ended), ended));
        spans.push(span(
            Lane::Runtime,
            "end the microVM, remove everything",
            ended,
            end,
        ));
        spans.sort_by(|one, other| one.from.total_cmp(&other.from));
        Some(Self { spans, end })
    }
}

/// The stage during which the guest boots.
const BOOT: &str = "boot guest";

/// What the monitor logs when the program has ended.
const ENDED: &str = "program ended";

/// How long the parts of a boot take from the start of the VMM, milliseconds.
struct Boot {
    floor: f64,
    init: f64,
    ready: f64,
}

impl Boot {
    /// What happens until the agent is ready at that time.
    fn before(&self, ready: f64) -> [Span; 3] {
        let at = |milliseconds: f64| (ready - self.ready + milliseconds).max(0.0);
        [
            span(Lane::Vmm, "start, jail, load the kernel", at(0.0), at(self.floor)),
            span(Lane::Guest, "kernel", at(self.floor), at(self.init)),
            span(Lane::Guest, "agent's start", at(self.init), ready),
        ]
    }
}

fn stage(line: &Line) -> Option<Span> {
    let (stage, took) = line.stage.as_ref()?;
    Some(span(
        Lane::Runtime,
        stage,
        line.milliseconds - took,
        line.milliseconds,
    ))
}

fn span(lane: Lane, what: &str, from: f64, to: f64) -> Span {
    Span {
        lane,
        what: what.to_owned(),
        from,
        to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(milliseconds: f64, message: &str, stage: Option<(&str, f64)>) -> Line {
        Line {
            milliseconds,
            message: message.into(),
            stage: stage.map(|(stage, took)| (stage.into(), took)),
        }
    }

    #[test]
    fn the_boot_is_placed_before_its_end() {
        let lines = [
            line(3.0, "stage done", Some(("prepare", 2.0))),
            line(33.0, "stage done", Some((BOOT, 29.0))),
            line(40.0, "stage done", Some(("start container", 6.0))),
            line(41.0, ENDED, None),
        ];
        let boot = Boot {
            floor: 3.0,
            init: 28.0,
            ready: 30.0,
        };
        let timeline = Timeline::of(&lines, 45.0, &boot).expect("complete");
        let of = |what: &str| {
            let span = timeline.spans.iter().find(|span| span.what == what).expect(what);
            (span.from, span.to)
        };
        assert_eq!(of("prepare"), (1.0, 3.0));
        assert_eq!(of("kernel"), (6.0, 31.0));
        assert_eq!(of("agent's start"), (31.0, 33.0));
        assert_eq!(of("the program"), (40.0, 41.0));
        assert_eq!(of("end the microVM, remove everything"), (41.0, 45.0));
        assert_eq!(Timeline::of(&lines[..1], 45.0, &boot), None);
    }
}
