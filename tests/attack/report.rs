//! The report in a browser: names that want to be markup are text, nothing runs, nothing is asked for elsewhere.

use coldread::case::audit::{Kind, Log};
use serde_json::json;

use super::house::House;
use super::support::{need, text};

/// Chromium without a network of its own, as root too.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
];

fn hostile() -> Vec<String> {
    vec![
        "/<script>document.title='owned'</script>".into(),
        "/<img src=x onerror=\"document.title='owned'\">".into(),
        "/\"><svg onload=alert(1)>&lt;".into(),
        "/</title></style></pre><iframe src=https://example.com/>".into(),
        "/evil\u{202e}gpj.exe\u{2066}x".into(),
        format!("/{}", "a".repeat(255)),
        "/{{7*7}}'; --".into(),
        "/line\nbreak\u{7}bell".into(),
    ]
}

fn case_with(names: &[String]) -> House {
    let house = House::stated();
    house.exits(
        0,
        &[
            "case",
            "open",
            "c",
            "--id",
            "<b>C-7</b>",
            "--ticket",
            "T<i>",
            "--reason",
            "</p><script>1</script>",
        ],
    );
    let dir = house.path("c/evidence/0001-extract");
    std::fs::create_dir(&dir).unwrap();
    let lines: Vec<String> = names
        .iter()
        .map(|name| {
            json!({ "path": name, "size": 3, "nlink": 1, "sha256": "ab".repeat(32), "gaps": [] }).to_string()
                + "\n"
        })
        .collect();
    std::fs::write(dir.join("manifest.jsonl"), lines.concat()).unwrap();
    let log = Log::open(&house.path("c/audit.jsonl")).unwrap();
    let intent = json!({
        "command": "extract", "argv": names, "paths": names, "source": names[0], "instance": "i",
        "grant": { "kind": "stated", "ticket": "T", "approved_by": names[1], "reason": names[2] },
    });
    log.append(Kind::Intent, "r1", &intent).unwrap();
    let refused: Vec<_> = names.iter().map(|name| json!({ "path": name, "why": name })).collect();
    let outcome = json!({
        "exit": 3, "refused": refused, "gaps": names, "error": names[3], "changed": names,
        "manifest": { "path": "evidence/0001-extract/manifest.jsonl", "sha256": "00" },
        "pauses": [{ "from": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:01.5Z", "ended_by": names[0] }],
    });
    log.append(Kind::Outcome, "r1", &outcome).unwrap();
    house.exits(0, &["case", "report", "c"]);
    house
}

#[test]
fn hostile_names_are_text_and_nothing_is_loaded() {
    if !need(&["chromium", "strace"]) {
        return;
    }
    let names = hostile();
    let house = case_with(&names);
    let (page, profile, net) = (house.path("c/report.html"), house.path("profile"), house.path("net.json"));
    let chromium = |profile: &std::path::Path, more: &[String]| {
        let mut args: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        args.push(format!("--user-data-dir={}", profile.display()));
        args.extend(more.iter().cloned());
        let mut all = vec!["60".to_string(), "chromium".to_string()];
        all.extend(args);
        super::support::run("timeout", &all)
    };
    let url = format!("file://{}", page.display());
    let dom =
        text(chromium(&profile, &[format!("--log-net-log={}", net.display()), "--dump-dom".into(), url]));
    // As the parser built it: the only elements are ours.
    for element in ["<script", "<img", "<iframe", "<object", "<link", "<a ", "<form", "<svg onload"] {
        let inside = dom.contains(element);
        assert!(!inside, "{element} is in the page");
    }
    assert!(dom.contains("<title>Case &lt;b&gt;C-7&lt;/b&gt;</title>"), "the title was changed");
    assert!(dom.contains("&lt;script&gt;document.title='owned'&lt;/script&gt;"));
    assert!(dom.contains(&"a".repeat(255)));
    assert!(
        dom.contains(r"/evil\u{202e}gpj.exe\u{2066}x")
            && !dom.contains('\u{202e}')
            && !dom.contains('\u{2066}')
    );
    assert!(dom.contains(r"/line\u{a}break\u{7}bell"));
    // Requests of the page itself: its own file and nothing else.
    let net = std::fs::read_to_string(net).unwrap();
    assert!(!net.contains("example.com"), "the page asked for something");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("default-src 'none'") && !page.contains("http://") && !page.contains("https://\""));
    // The timeline's picture is there, and so is the pause.
    assert!(dom.contains("<svg") && dom.contains("1.500 s"));
}
