//! The page. Everything that is not written here goes through [`Safe`]; the page forbids itself scripts and requests.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::escape::Safe;
use super::{Files, Model, svg};
use crate::case::audit::checkpoint::Checkpoint;
use crate::case::audit::merkle::from_hex;
use crate::case::story::{Run, list, text};

const STYLE: &str = include_str!("style.css");

/// Rows of refusals and gaps written out for one run; the log has the rest.
const ROWS: usize = 200;

pub(super) fn page(model: &Model) -> String {
    let mut page = String::with_capacity(64 << 10);
    let facts = &model.case.facts;
    let style = BASE64.encode(Sha256::digest(STYLE));
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{style}'; \
         base-uri 'none'; form-action 'none'\">\
         <meta name=\"referrer\" content=\"no-referrer\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Case {}</title><style>{STYLE}</style></head><body>",
        Safe(&facts.id)
    );
    header(&mut page, model);
    overview(&mut page, model);
    let picture = svg::timeline(model);
    if !picture.is_empty() {
        let _ = write!(
            page,
            "<section><h2>Timeline</h2><figure>{picture}<figcaption><i class=\"key run\"></i>run \
             <i class=\"key pause\"></i>instance paused <i class=\"key glass\"></i>emergency \
             <i class=\"key lost\"></i>no outcome <b class=\"bad\">×</b> refused; times are UTC</figcaption></figure></section>"
        );
    }
    approvals(&mut page, model);
    pauses(&mut page, model);
    page.push_str("<section><h2>Runs</h2>");
    for (run, files) in model.story.runs.iter().zip(&model.files) {
        one_run(&mut page, run, files);
    }
    if model.story.runs.is_empty() {
        page.push_str("<p>Nothing was done in this case.</p>");
    }
    page.push_str("</section>");
    refused(&mut page, model);
    log(&mut page, model);
    page.push_str("</body></html>\n");
    page
}

fn header(page: &mut String, model: &Model) {
    let facts = &model.case.facts;
    let (state, class) = if model.story.closed.is_some() { ("closed", "closed") } else { ("open", "open") };
    let _ = write!(
        page,
        "<header><p class=\"kicker\">coldread case report</p><h1>{} <span class=\"state {class}\">{state}</span></h1>\
         <p class=\"reason\">{}</p><dl class=\"facts\">",
        Safe(&facts.id),
        Safe(&facts.reason)
    );
    fact(page, "Ticket", &facts.ticket);
    fact(page, "Investigator", facts.investigator.as_deref().unwrap_or("not named"));
    fact(page, "Opened", &moment(text(&model.story.opened, "/time")));
    if let Some(closed) = &model.story.closed {
        fact(page, "Closed", &moment(text(closed, "/time")));
    }
    page.push_str("</dl></header>");
}

fn fact(page: &mut String, name: &str, value: &str) {
    let _ = write!(page, "<div><dt>{name}</dt><dd><bdi>{}</bdi></dd></div>", Safe(value));
}

fn overview(page: &mut String, model: &Model) {
    let runs = &model.story.runs;
    let of_outcomes = |key: &str| -> usize {
        runs.iter().filter_map(|run| run.outcome.as_ref()).map(|o| list(o, key).len()).sum()
    };
    let files: usize =
        model.files.iter().map(|f| f.listed.len() + usize::try_from(f.more).unwrap_or(0)).sum();
    let paused = model.pauses().filter_map(|(_, pause)| seconds(pause)).fold(0.0, |a: f64, b| a + b);
    let waiting = runs.iter().filter(|run| run.is_break_glass() && run.ratified.is_none()).count();
    page.push_str("<section class=\"cards\">");
    let mut card = |number: &str, what: &str, bad: bool| {
        let class = if bad { " class=\"bad\"" } else { "" };
        let _ = write!(page, "<div{class}><b>{}</b><span>{what}</span></div>", Safe(number));
    };
    card(&runs.len().to_string(), "runs", false);
    card(&files.to_string(), "files copied", false);
    card(&format!("{paused:.1} s"), "instance paused", false);
    let refusals = of_outcomes("/refused") + model.story.refused.len();
    card(&refusals.to_string(), "refusals", refusals > 0);
    let gaps = of_outcomes("/gaps");
    card(&gaps.to_string(), "gaps", gaps > 0);
    if waiting > 0 {
        card(&waiting.to_string(), "emergencies not ratified", true);
    }
    let log = if model.log.sound { "sound" } else { "not sound" };
    card(log, "audit log", !model.log.sound);
    page.push_str("</section>");
}

/// One row for each person and document, with the lines of the log that rest on it.
fn approvals(page: &mut String, model: &Model) {
    let mut rows: Vec<([String; 4], Vec<String>)> = Vec::new();
    let mut add = |cells: [String; 4], line: String| match rows.iter_mut().find(|(known, _)| *known == cells)
    {
        Some((_, lines)) => lines.push(line),
        None => rows.push((cells, vec![line])),
    };
    let mut grant_rows = |line: &Value, what: &str| {
        let (grant, at) = (&line["grant"], format!("{}{what}", line["seq"]));
        let cells = |who: &str, key: String| {
            [who.to_string(), key, text(grant, "/ticket").to_string(), text(grant, "/reason").to_string()]
        };
        match text(grant, "/kind") {
            "signed" => {
                for signer in list(grant, "/signers") {
                    let (kind, key) = (text(signer, "/key_type"), text(signer, "/fingerprint"));
                    let key = format!("{kind} {key} · document {}", text(grant, "/document"));
                    add(cells(text(signer, "/principal"), key), at.clone());
                }
            }
            "break-glass" => add(cells("nobody: emergency", "break-glass".into()), at),
            _ => add(cells(text(grant, "/approved_by"), "stated, not signed".into()), at),
        }
    };
    for run in &model.story.runs {
        grant_rows(&run.intent, "");
        if let Some(line) = &run.ratified {
            grant_rows(line, " (ratifies)");
        }
    }
    page.push_str(
        "<section><h2>By whose leave</h2><div class=\"scroll\"><table><thead><tr><th>Approved by</th>\
         <th>Key or statement</th><th>Ticket</th><th>Reason</th><th>Lines</th></tr></thead><tbody>",
    );
    for ([who, key, ticket, reason], lines) in &rows {
        let _ = write!(
            page,
            "<tr><td><bdi>{}</bdi></td><td class=\"hash\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Safe(who),
            Safe(key),
            Safe(ticket),
            Safe(reason),
            Safe(&lines.join(", "))
        );
    }
    page.push_str("</tbody></table></div></section>");
}

fn pauses(page: &mut String, model: &Model) {
    let mut rows = String::new();
    for (run, pause) in model.pauses() {
        let run = model.story.runs.get(run).map_or("", Run::name);
        let length = seconds(pause).map_or("not seen running again".to_string(), |s| format!("{s:.3} s"));
        let _ = write!(
            rows,
            "<tr><td class=\"hash\">{}</td><td>{}</td><td>{}</td><td>{length}</td><td>{}</td></tr>",
            Safe(run),
            Safe(&moment(text(pause, "/from"))),
            Safe(&moment(text(pause, "/until"))),
            Safe(text(pause, "/ended_by"))
        );
    }
    if !rows.is_empty() {
        let _ = write!(
            page,
            "<section><h2>Pauses of the instance</h2><div class=\"scroll\"><table><thead><tr><th>Run</th><th>From</th><th>Until</th><th>Length</th><th>Ended by</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
        );
    }
}

fn one_run(page: &mut String, run: &Run, files: &Files) {
    let intent = &run.intent;
    let (exit, class) = match &run.outcome {
        Some(outcome) => match outcome["exit"].as_i64() {
            Some(0) => ("complete".to_string(), "ok"),
            Some(1) => ("with gaps".to_string(), "warn"),
            Some(3) => ("partly refused".to_string(), "warn"),
            Some(4) => ("instance not restored".to_string(), "bad"),
            Some(code) => (format!("exit {code}"), "bad"),
            None => ("no exit code".to_string(), "bad"),
        },
        None => ("no outcome: killed, or goes on".to_string(), "bad"),
    };
    let glass = if run.is_break_glass() {
        let ratified = if run.ratified.is_some() { "ratified" } else { "not ratified" };
        format!(" <span class=\"pill bad\">emergency, {ratified}</span>")
    } else {
        String::new()
    };
    let argv = list(intent, "/argv").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let _ = write!(
        page,
        "<article><h3>{} <bdi>{}</bdi> <span class=\"pill {class}\">{exit}</span>{glass}</h3><pre>{}</pre><dl class=\"facts\">",
        intent["seq"],
        Safe(text(intent, "/command")),
        Safe(&argv)
    );
    fact(page, "Began", &moment(text(intent, "/time")));
    let operator = ["/operator/login", "/operator/sudo_user", "/operator/user"];
    fact(
        page,
        "By",
        operator.iter().map(|p| text(intent, p)).find(|name| !name.is_empty()).unwrap_or("unknown"),
    );
    fact(page, "On", text(intent, "/tool/host"));
    fact(page, "Instance", text(intent, "/instance"));
    fact(page, "Source", text(intent, "/source"));
    if !text(intent, "/consistency").is_empty() {
        fact(page, "Consistency", text(intent, "/consistency"));
    }
    let Some(outcome) = &run.outcome else {
        page.push_str("</dl></article>");
        return;
    };
    fact(page, "Ended", &moment(text(outcome, "/time")));
    if let Some(results) = outcome["results"].as_object() {
        for (name, value) in results {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            let _ = write!(page, "<div><dt>{}</dt><dd><bdi>{}</bdi></dd></div>", Safe(name), Safe(&shown));
        }
    }
    page.push_str("</dl>");
    if !text(outcome, "/error").is_empty() {
        let _ = write!(page, "<p class=\"bad\">{}</p>", Safe(text(outcome, "/error")));
    }
    table(page, "Refused", &["Path", "Why"], list(outcome, "/refused"), |line| {
        vec![text(line, "/path").into(), text(line, "/why").into()]
    });
    table(page, "Gaps", &["What could not be read"], list(outcome, "/gaps"), |line| {
        vec![line.as_str().unwrap_or_default().into()]
    });
    table(page, "Changed unavoidably", &["What and why"], list(outcome, "/changed"), |line| {
        vec![line.as_str().unwrap_or_default().into()]
    });
    table(page, "Digests", &["Of", "SHA-256"], list(outcome, "/digests"), |line| {
        vec![text(line, "/name").into(), text(line, "/sha256").into()]
    });
    if !text(outcome, "/manifest/sha256").is_empty() {
        let _ = write!(
            page,
            "<p>Manifest <bdi>{}</bdi> <span class=\"hash\">{}</span></p>",
            Safe(text(outcome, "/manifest/path")),
            Safe(text(outcome, "/manifest/sha256"))
        );
    }
    copied(page, files);
    page.push_str("</article>");
}

fn copied(page: &mut String, files: &Files) {
    if files.listed.is_empty() {
        return;
    }
    let count = files.listed.len() as u64 + files.more;
    let _ = write!(
        page,
        "<details open><summary>{count} files copied</summary><div class=\"scroll\"><table><thead><tr><th>Path</th><th>Bytes</th><th>Links</th><th>SHA-256</th></tr></thead><tbody>"
    );
    for file in &files.listed {
        let digest = match file["sha256"].as_str() {
            Some(digest) => digest.to_string(),
            None => {
                format!("with {} gaps; the copy: {}", list(file, "/gaps").len(), text(file, "/output_sha256"))
            }
        };
        let _ = write!(
            page,
            "<tr><td class=\"path\"><bdi>{}</bdi></td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"hash\">{}</td></tr>",
            Safe(text(file, "/path")),
            Safe(&file["size"].to_string()),
            Safe(&file["nlink"].to_string()),
            Safe(&digest)
        );
    }
    page.push_str("</tbody></table></div>");
    if files.more > 0 {
        let _ = write!(page, "<p>{} more are in the manifest.</p>", files.more);
    }
    page.push_str("</details>");
}

fn table(
    page: &mut String,
    title: &str,
    head: &[&str],
    rows: &[Value],
    cells: impl Fn(&Value) -> Vec<String>,
) {
    if rows.is_empty() {
        return;
    }
    let head = head.join("</th><th>");
    let _ = write!(
        page,
        "<h4>{title}</h4><div class=\"scroll\"><table><thead><tr><th>{head}</th></tr></thead><tbody>"
    );
    for row in rows.iter().take(ROWS) {
        page.push_str("<tr>");
        for cell in cells(row) {
            let _ = write!(page, "<td class=\"path\"><bdi>{}</bdi></td>", Safe(&cell));
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
    if rows.len() > ROWS {
        let _ = write!(page, "<p>{} more are in the log.</p>", rows.len() - ROWS);
    }
}

fn refused(page: &mut String, model: &Model) {
    if model.story.refused.is_empty() {
        return;
    }
    page.push_str("<section><h2>Refused before it began</h2>");
    table(page, "Requests", &["Line", "When", "Command", "Why"], &model.story.refused, |line| {
        vec![
            line["seq"].to_string(),
            moment(text(line, "/time")),
            text(line, "/command").into(),
            text(line, "/why").into(),
        ]
    });
    page.push_str("</section>");
}

fn log(page: &mut String, model: &Model) {
    let log = &model.log;
    page.push_str("<section class=\"log\"><h2>The log, and how to check it</h2>");
    if let Some(problem) = &log.problem {
        let _ = write!(page, "<p class=\"bad\">The log is not sound: {}</p>", Safe(problem));
    }
    let origin = log.origin.clone().unwrap_or_default();
    let checkpoint = Checkpoint { origin, size: log.lines, root: from_hex(&log.root).unwrap_or_default() };
    let _ = write!(
        page,
        "<p>When this page was made the log had {} lines with the RFC 6962 root <span class=\"hash\">{}</span>. \
         Its checkpoint:</p><pre>{}</pre>\
         <p>Keep the checkpoint where the operator cannot reach it. Then <code>coldread log verify --against CHECKPOINT DIR</code> \
         finds any change to the lines it covers, and <code>coldread case verify DIR</code> checks approvals, manifests and \
         digests again. Without a checkpoint from elsewhere, a log that was written anew or cut at its end looks sound.</p></section>",
        log.lines,
        Safe(&log.root),
        SafeLines(&checkpoint.to_string())
    );
}

/// Text of several lines: each is safe, their ends stay.
struct SafeLines<'t>(&'t str);

impl std::fmt::Display for SafeLines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.lines().try_for_each(|line| writeln!(f, "{}", Safe(line)))
    }
}

/// How long a pause was, in seconds.
fn seconds(pause: &Value) -> Option<f64> {
    let from: Timestamp = text(pause, "/from").parse().ok()?;
    let until: Timestamp = text(pause, "/until").parse().ok()?;
    Some(until.duration_since(from).as_secs_f64())
}

/// A time for reading: UTC, to the millisecond.
fn moment(time: &str) -> String {
    time.parse::<Timestamp>()
        .map_or_else(|_| time.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S.%3f UTC").to_string())
}
