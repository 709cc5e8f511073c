//! start.svg: the timeline of one start.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::BenchError;
use super::timeline::{Lane, Timeline};

/// Its name in the folder of the documents.
const NAME: &str = "start.svg";

/// Where the lanes begin and how wide they are, in the picture's units.
const LEFT: f64 = 80.0;
const WIDTH: f64 = 860.0;
const LANE_HEIGHT: f64 = 34.0;
const LINE_HEIGHT: f64 = 22.0;

/// Colours that can be told apart on white and on black.
const COLOURS: [&str; 12] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b07aa1", "#edc948", "#9c755f", "#d37295",
    "#499894", "#86bcb6", "#8c8c8c",
];

/// Writes it.
pub fn write(docs: &Path, timeline: &Timeline) -> Result<(), BenchError> {
    let path = docs.join(NAME);
    fs::write(&path, svg(timeline)).map_err(BenchError::file(&path))
}

fn svg(timeline: &Timeline) -> String {
    let scale = WIDTH / timeline.end;
    let lanes = LANE_HEIGHT * count(Lane::ALL.len());
    let height = lanes + 60.0 + LINE_HEIGHT * count(timeline.spans.len());
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 {height}\" role=\"img\">\n\
         <title>Where the time of one bulkhead run goes</title>\n\
         <style>text {{ font: 14px sans-serif; fill: #24292f }} line {{ stroke: #8c8c8c }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}</style>\n"
    );
    // Writing to a String does not fail.
    for (number, lane) in Lane::ALL.iter().enumerate() {
        let y = LANE_HEIGHT * count(number) + 22.0;
        let _ = writeln!(text, "<text x=\"0\" y=\"{y}\">{}</text>", lane.name());
    }
    let step = step(timeline.end);
    for tick in (0..)
        .map(|number| step * count(number))
        .take_while(|tick| *tick <= timeline.end)
    {
        let x = LEFT + tick * scale;
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{}\"/><text x=\"{x:.1}\" y=\"{}\">{tick} ms</text>",
            lanes + 4.0,
            lanes + 20.0
        );
    }
    for (number, (span, colour)) in timeline.spans.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let lane = Lane::ALL.iter().position(|lane| *lane == span.lane).unwrap_or(0);
        let (x, y) = (LEFT + span.from * scale, LANE_HEIGHT * count(lane) + 4.0);
        // What takes next to nothing is to be seen, too.
        let width = ((span.to - span.from) * scale).max(1.0);
        let bottom = lanes + 50.0 + LINE_HEIGHT * count(number);
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"14\" height=\"14\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"{bottom}\">{}: {} ({:.1} ms, from {:.1})</text>",
            LANE_HEIGHT - 8.0,
            bottom - 12.0,
            LEFT + 22.0,
            span.lane.name(),
            span.what,
            span.to - span.from,
            span.from,
        );
    }
    text + "</svg>\n"
}

/// Between marks of the axis, of which there are to be five to ten.
fn step(end: f64) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
    steps
        .into_iter()
        .find(|step| end / step <= 10.0)
        .unwrap_or(1000.0)
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::timeline::Span;

    #[test]
    fn a_span_is_a_rectangle_to_scale_and_a_line_of_text() {
        let timeline = Timeline {
            spans: vec![Span {
                lane: Lane::Guest,
                what: "kernel".into(),
                from: 10.0,
                to: 20.0,
            }],
            end: 40.0,
        };
        let svg = svg(&timeline);
        assert!(
            svg.contains("<rect x=\"295.0\" y=\"72\" width=\"215.0\""),
            "{svg}"
        );
        assert!(svg.contains("guest: kernel (10.0 ms, from 10.0)"), "{svg}");
        assert!(svg.contains(">40 ms</text>"), "{svg}");
    }
}
