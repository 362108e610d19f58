//! The timeline picture: a row for each run, its pauses within it, refusals as marks.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::Value;

use super::Model;
use super::escape::Safe;
use crate::case::story::{list, text};

/// Rows drawn; a case with more shows its last ones.
const ROWS: usize = 60;
const LEFT: f64 = 190.0;
const WIDTH: f64 = 960.0;
const ROW: f64 = 24.0;
const TOP: f64 = 30.0;

struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn x(&self, at: f64) -> f64 {
        LEFT + (at - self.from) / (self.to - self.from) * (WIDTH - LEFT - 20.0)
    }
}

/// Seconds since 1970 at a JSON pointer.
fn time(line: &Value, pointer: &str) -> Option<f64> {
    let at: Timestamp = text(line, pointer).parse().ok()?;
    Some(at.as_duration().as_secs_f64())
}

struct Row<'m> {
    label: String,
    class: &'static str,
    from: f64,
    to: Option<f64>,
    pauses: &'m [Value],
    refusals: usize,
}

/// The picture, or nothing if nothing happened.
pub(super) fn timeline(model: &Model) -> String {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for run in &model.story.runs {
        let Some(from) = time(&run.intent, "/time") else { continue };
        let outcome = run.outcome.as_ref();
        let class = if run.is_break_glass() { "glass" } else { "run" };
        rows.push(Row {
            label: format!("{} {}", run.intent["seq"], text(&run.intent, "/command")),
            class,
            from,
            to: outcome.and_then(|line| time(line, "/time")),
            pauses: outcome.map_or(&[], |line| list(line, "/pauses")),
            refusals: outcome.map_or(0, |line| list(line, "/refused").len()),
        });
    }
    for line in &model.story.refused {
        let Some(from) = time(line, "/time") else { continue };
        let label = format!("{} {}", line["seq"], text(line, "/command"));
        rows.push(Row { label, class: "refused", from, to: Some(from), pauses: &[], refusals: 1 });
    }
    rows.sort_by(|a, b| a.from.total_cmp(&b.from));
    let rows = &rows[rows.len().saturating_sub(ROWS)..];
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return String::new() };
    let end = rows.iter().filter_map(|row| row.to).fold(last.from, f64::max);
    let from = time(&model.story.opened, "/time").filter(|_| rows.len() < ROWS).unwrap_or(first.from);
    // Room at both ends, and no division by nothing.
    let span = (end - from).max(1.0);
    let axis = Axis { from: from - span * 0.02, to: end + span * 0.04 };
    draw(rows, &axis)
}

fn draw(rows: &[Row<'_>], axis: &Axis) -> String {
    let height = f64::from(u32::try_from(rows.len()).unwrap_or(0)).mul_add(ROW, TOP + 12.0);
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Timeline of the case" class="timeline">"#
    );
    for tick in 0..=4 {
        let at = (axis.to - axis.from).mul_add(f64::from(tick) / 4.0, axis.from);
        let x = axis.x(at);
        let anchor = ["start", "middle", "middle", "middle", "end"][usize::try_from(tick).unwrap_or(0)];
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{x:.1}" y1="22" x2="{x:.1}" y2="{height}"/><text class="tick" x="{x:.1}" y="14" text-anchor="{anchor}">{}</text>"#,
            label(at, axis.to - axis.from)
        );
    }
    let mut y = TOP;
    for (n, row) in rows.iter().enumerate() {
        if n % 2 == 0 {
            let _ = write!(svg, r#"<rect class="band" x="0" y="{y}" width="{WIDTH}" height="{ROW}"/>"#);
        }
        let middle = y + ROW / 2.0;
        let _ = write!(
            svg,
            r#"<text class="name" x="8" y="{:.1}">{}</text>"#,
            middle + 4.0,
            Safe(&short(&row.label))
        );
        let x = axis.x(row.from);
        if row.class == "refused" {
            let _ =
                write!(svg, r#"<path class="refused" d="M{x:.1} {middle} m-5 -5 l10 10 m0 -10 l-10 10"/>"#);
        } else {
            let width = row.to.map_or(6.0, |to| axis.x(to) - x).max(6.0);
            let class = if row.to.is_some() { row.class } else { "lost" };
            let _ = write!(
                svg,
                r#"<rect class="{class}" x="{x:.1}" y="{:.1}" width="{width:.1}" height="12" rx="3"/>"#,
                middle - 6.0
            );
            for pause in row.pauses {
                let Some(from) = time(pause, "/from").map(|at| axis.x(at)) else { continue };
                let to = time(pause, "/until").map_or(from, |at| axis.x(at));
                let _ = write!(
                    svg,
                    r#"<rect class="pause" x="{from:.1}" y="{:.1}" width="{:.1}" height="18" rx="2"/>"#,
                    middle - 9.0,
                    (to - from).max(3.0)
                );
            }
            if row.refusals > 0 {
                let at = x + width + 10.0;
                let _ =
                    write!(svg, r#"<path class="refused" d="M{at:.1} {middle} m-4 -4 l8 8 m0 -8 l-8 8"/>"#);
            }
        }
        y += ROW;
    }
    svg.push_str("</svg>");
    svg
}

fn short(label: &str) -> String {
    let mut short: String = label.chars().take(24).collect();
    if short.len() < label.len() {
        short.push('…');
    }
    short
}

/// A point on the axis, as fine as the axis is long.
fn label(at: f64, span: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "milliseconds of a year that has four digits")]
    let Ok(at) = Timestamp::from_millisecond((at * 1000.0) as i64) else { return String::new() };
    if span < 20.0 {
        return at.strftime("%H:%M:%S.%3f").to_string();
    }
    at.strftime(if span > 2.0 * 86400.0 {
        "%Y-%m-%d"
    } else if span > 300.0 {
        "%d %b %H:%M"
    } else {
        "%H:%M:%S"
    })
    .to_string()
}
