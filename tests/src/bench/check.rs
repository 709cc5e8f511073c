//! Whether figures have got worse.

use super::BenchError;
use super::experiments::{rows, subjects};
use super::figures::Figure;
use super::record::Record;
use super::unit::Unit;

/// How much more a figure may be than the committed one, in percent. The same binaries differ by less.
const TOLERANCE_PERCENT: f64 = 3.0;

/// Between two ticks of the emulated host's timer, in milliseconds. The host's kernel takes a virtual machine apart at ticks: it
/// waits for the end of an RCU grace period (`rcu_barrier` in `kvm_mmu_uninit_vm`).
const TICK_MILLISECONDS: f64 = 4.0;

/// What is added to a tick for what such a figure differs by besides.
const BESIDES: f64 = 1.05;

/// Four pages, in MB: where a program's data happen to begin in their pages is not its merit.
const PAGES_MEGABYTES: f64 = 0.0164;

/// The step by which a figure may be more without anything being worse, in its unit.
fn step(figure: &Figure) -> f64 {
    match figure.unit {
        Unit::Milliseconds if figure.row == rows::RUN => TICK_MILLISECONDS * BESIDES,
        Unit::Megabytes => PAGES_MEGABYTES,
        Unit::Milliseconds | Unit::Microseconds => 0.0,
    }
}

/// Compares bulkhead's figures with those of before. On another emulated host nothing can be said, and nothing is.
pub fn compare(now: &Record, before: &Record) -> Result<(), BenchError> {
    if now.emulated_host != before.emulated_host {
        println!(
            "The committed figures are of another emulated host, {:?} and not {:?}, and cannot be compared with. `make \
             bench` writes new ones.",
            before.emulated_host, now.emulated_host
        );
        return Ok(());
    }
    let worse = worse(now, before);
    if worse.is_empty() {
        return Ok(());
    }
    Err(BenchError::Worse(worse))
}

fn worse(now: &Record, before: &Record) -> Vec<String> {
    let ours = now
        .figures
        .iter()
        .filter(|figure| figure.subject == subjects::BULKHEAD);
    let mut worse = Vec::new();
    for figure in ours {
        let Some(before) = before.figure(&figure.row, &figure.subject) else {
            continue;
        };
        let more = figure.least() - before.least();
        let percent = more / before.least() * 100.0;
        let median_percent = (figure.median - before.median) / before.median * 100.0;
        // One lucky sample before, or an unlucky median now, is noise.
        if percent.min(median_percent) > TOLERANCE_PERCENT && more > step(figure) {
            worse.push(format!(
                "{}: {:.2} {} instead of {:.2} ({percent:+.1} %)",
                figure.row,
                figure.least(),
                figure.unit,
                before.least(),
            ));
        }
    }
    worse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Figure;
    use crate::bench::record::EmulatedHost;
    use crate::bench::unit::Unit;

    fn record(kernel: &str, samples: &[f64]) -> Record {
        let figures = [subjects::BULKHEAD, subjects::RUNC]
            .iter()
            .filter_map(|subject| Figure::new("row", subject, Unit::Milliseconds, samples.to_vec()))
            .collect();
        Record {
            emulated_host: EmulatedHost {
                kernel: kernel.into(),
                emulator: "QEMU".into(),
            },
            figures,
        }
    }

    #[test]
    fn only_our_own_figures_that_are_worse_by_more_than_noise_fail() {
        let before = record("6.12", &[10.0, 10.1]);
        for fine in [[10.2, 90.0], [10.4, 10.0], [1.0, 2.0]] {
            compare(&record("6.12", &fine), &before).unwrap();
        }
        let error = compare(&record("6.12", &[10.4, 10.5]), &before).unwrap_err();
        assert_eq!(
            error.to_string(),
            "worse than docs/performance.json has it: row: 10.40 ms instead of 10.00 (+4.0 %); if that is meant, `make \
             bench` writes the new figures, to be committed"
        );
    }

    #[test]
    fn a_tick_or_a_few_pages_more_are_noise_where_there_are_such() {
        let of = |row: &str, unit, value: f64| Record {
            figures: Figure::new(row, subjects::BULKHEAD, unit, vec![value])
                .into_iter()
                .collect(),
            ..record("6.12", &[])
        };
        for (row, unit, before, fine, worse) in [
            (rows::RUN, Unit::Milliseconds, 78.4, 82.4, 83.0),
            (rows::READY, Unit::Milliseconds, 45.0, 46.0, 46.5),
            ("anonymous", Unit::Megabytes, 0.15, 0.166, 0.17),
            ("guest", Unit::Megabytes, 37.7, 38.8, 38.9),
        ] {
            let before = of(row, unit, before);
            compare(&of(row, unit, fine), &before).unwrap();
            compare(&of(row, unit, worse), &before).unwrap_err();
        }
    }

    #[test]
    fn what_was_not_measured_before_or_on_another_host_does_not_fail() {
        let before = record("6.12", &[10.0]);
        compare(&record("6.13", &[20.0]), &before).unwrap();
        let mut other = record("6.12", &[20.0]);
        other.figures[0].row = "new".into();
        compare(&other, &before).unwrap();
    }
}
