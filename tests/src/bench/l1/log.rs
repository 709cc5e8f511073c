//! What a program has logged about itself.

use std::fs;
use std::io;
use std::time::SystemTime;

use serde::Deserialize;

use crate::bench::plan::Line;

/// A line, as `bulkhead --log-format json` writes it.
#[derive(Deserialize)]
struct Written {
    msg: String,
    time: String,
    stage: Option<String>,
    /// Every field is text.
    seconds: Option<String>,
}

/// The lines of a log that was begun at that time.
pub fn read(path: &str, start: SystemTime) -> io::Result<Vec<Line>> {
    let text = fs::read_to_string(path)?;
    text.lines().map(|line| parse(line, start)).collect()
}

fn parse(line: &str, start: SystemTime) -> io::Result<Line> {
    let written: Written = serde_json::from_str(line)?;
    let time = humantime::parse_rfc3339(&written.time).map_err(io::Error::other)?;
    let since = time.duration_since(start).map_err(io::Error::other)?;
    let seconds: Option<f64> = written
        .seconds
        .map(|seconds| seconds.parse())
        .transpose()
        .map_err(io::Error::other)?;
    Ok(Line {
        milliseconds: since.as_secs_f64() * 1e3,
        message: written.msg,
        stage: written.stage.zip(seconds.map(|seconds| seconds * 1e3)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_since_the_start_and_perhaps_a_stage() {
        let start = humantime::parse_rfc3339("2026-01-01T00:00:01Z").expect("a time");
        let line = r#"{"level":"debug","msg":"stage done","stage":"prepare","seconds":"0.5","time":"2026-01-01T00:00:01.250000000Z"}"#;
        let expected = Line {
            milliseconds: 250.0,
            message: "stage done".into(),
            stage: Some(("prepare".into(), 500.0)),
        };
        assert_eq!(parse(line, start).expect("a line"), expected);
        assert!(parse("{}", start).is_err());
    }
}
