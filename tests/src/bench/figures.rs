//! Figures from samples.

use serde::{Deserialize, Serialize};

use super::experiments::Measurement;
use super::plan::{Memory, Sample};
use super::unit::Unit;

/// What one measurement came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What is measured.
    pub row: String,
    /// Of whom.
    pub subject: String,
    /// What it is counted in. The less, the better.
    pub unit: Unit,
    /// Every sample, in the order of measuring.
    pub samples: Vec<f64>,
    /// Their median.
    pub median: f64,
}

/// What memory is shown of.
pub mod memory {
    /// All of the host's side.
    pub const HOST: &str = "host's side, PSS";
    /// What no other shares.
    pub const ANONYMOUS: &str = "host's side, anonymous";
    /// What the guest has touched.
    pub const GUEST: &str = "guest's RAM touched";
    /// Both.
    pub const ALL: &str = "all";
    /// The shim.
    pub const SHIM: &str = "shim, PSS";
}

impl Figure {
    /// None without samples.
    pub fn new(row: impl Into<String>, subject: &str, unit: Unit, samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |at: usize| sorted.get(at).copied();
        let median = f64::midpoint(
            middle(sorted.len().checked_sub(1)? / 2)?,
            middle(sorted.len() / 2)?,
        );
        Some(Self {
            row: row.into(),
            subject: subject.into(),
            unit,
            samples,
            median,
        })
    }

    /// The least of the samples: what disturbs a measurement makes it longer.
    pub fn least(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest sample less the smallest, in percent of the median.
    pub fn spread_percent(&self) -> f64 {
        let largest = self.samples.iter().copied().fold(0.0, f64::max);
        (largest - self.least()) / self.median * 100.0
    }
}

/// The figures of all measurements that have samples.
pub fn all(measurements: &[Measurement], samples: &[(String, Sample)]) -> Vec<Figure> {
    let mut figures = Vec::new();
    // What logs does something that the others do not.
    for measurement in measurements
        .iter()
        .filter(|measurement| measurement.experiment.log.is_none())
    {
        let samples: Vec<Sample> = samples
            .iter()
            .filter(|(name, _)| *name == measurement.experiment.name)
            .map(|(_, sample)| *sample)
            .collect();
        let each = |sample: &Sample| {
            measurement.unit.of_milliseconds(sample.milliseconds) / f64::from(measurement.count)
        };
        figures.extend(Figure::new(
            measurement.row(),
            measurement.subject(),
            measurement.unit,
            samples.iter().map(each).collect(),
        ));
        if let Some(of) = &measurement.memory {
            let memory: Vec<Memory> = samples.iter().filter_map(|sample| sample.memory).collect();
            figures.extend(of_memory(of, measurement.subject(), &memory));
        }
    }
    figures
}

/// What there is none of is not shown.
fn of_memory(of: &str, subject: &str, memory: &[Memory]) -> Vec<Figure> {
    type Part = fn(&Memory) -> u64;
    let parts: [(&str, Part); 5] = [
        (memory::HOST, |memory| memory.host),
        (memory::ANONYMOUS, |memory| memory.anonymous),
        (memory::SHIM, |memory| memory.shim),
        (memory::GUEST, |memory| memory.guest),
        (memory::ALL, |memory| memory.host + memory.guest),
    ];
    let figure = |(part, kib): (&str, Part)| {
        let samples: Vec<f64> = memory.iter().map(|memory| megabytes(kib(memory) << 10)).collect();
        let is_there = samples.iter().any(|sample| *sample > 0.0);
        let figure = Figure::new(format!("{of}: {part}"), subject, Unit::Megabytes, samples)?;
        is_there.then_some(figure)
    };
    parts.into_iter().filter_map(figure).collect()
}

/// In [`Unit::Megabytes`].
#[expect(clippy::cast_precision_loss, reason = "no figure has 53 bits")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_least_and_spread() {
        let figure = |samples: &[f64]| Figure::new("row", "x", Unit::Milliseconds, samples.to_vec());
        let odd = figure(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.least(), odd.spread_percent()), (2.0, 1.0, 100.0));
        assert_eq!(figure(&[4.0, 2.0]).unwrap().median, 3.0);
        assert_eq!(figure(&[]), None);
    }

    #[test]
    fn memory_that_there_is_none_of_has_no_figure() {
        let memory = Memory {
            host: 1000,
            guest: 0,
            ..Memory::default()
        };
        let rows = |figures: Vec<Figure>| figures.into_iter().map(|figure| figure.row).collect::<Vec<_>>();
        assert_eq!(
            rows(of_memory("x", "s", &[memory])),
            ["x: host's side, PSS", "x: all"]
        );
    }
}
