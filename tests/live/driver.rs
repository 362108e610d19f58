//! A program that reads a live instance, for the tests to cut off: this test binary once more, told by its environment.
//! It opens the instance, says `open` with its disks, waits for a line, finishes, and says what came of it.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use coldread::effort::Effort;
use coldread::error::{Error, Kind};
use coldread::host::libvirt::session::Client;
use coldread::host::live::{LiveSpec, Mode, Way, open};
use serde_json::json;

/// What the environment of the driver has to say. Any other variable is left out of it.
pub const VARIABLE: &str = "COLDREAD_LIVE_DRIVER";

/// Runs as the driver, if this process is one.
pub fn run_if_asked() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let wish: serde_json::Value = serde_json::from_str(&text).unwrap();
    let word = |name: &str| wish[name].as_str().map(str::to_owned);
    let number = |name: &str| wish[name].as_u64();
    let spec = LiveSpec {
        client: Client {
            words: word("virsh").unwrap().split(' ').map(str::to_owned).collect(),
            connect: word("connect"),
        },
        mode: match word("mode").unwrap().as_str() {
            "brief" => Mode::Brief,
            "hold" => Mode::Hold,
            _ => Mode::NoPause,
        },
        max_pause: number("max_pause_ms").map(Duration::from_millis),
        max_view: number("max_view_ms").map(Duration::from_millis),
        scratch: word("scratch").map(PathBuf::from),
        scratch_limit: number("scratch_limit"),
        floor: Some(number("floor").unwrap_or(64 << 20)),
        as_is: wish["as_is"].as_bool() == Some(true),
        dir: word("dir").map(PathBuf::from),
        watchdog: Some(env!("CARGO_BIN_EXE_coldread").into()),
        patience: Some(Duration::from_millis(number("patience_ms").unwrap_or(20_000))),
        ..LiveSpec::new(word("target").unwrap())
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled)).unwrap();
    }
    let effort = Effort::new(cancelled);
    let live = match open(&spec, &effort) {
        Ok(live) => live,
        Err(error) => end(&error),
    };
    let disks: Vec<_> = live
        .disks()
        .iter()
        .map(|disk| match &disk.way {
            Way::Files(files) => json!({"target": disk.target, "file": files[0].0, "format": files[0].1}),
            Way::Nbd { socket, export } => {
                json!({"target": disk.target, "socket": socket, "export": export, "size": disk.size})
            }
            Way::Nowhere(what) => json!({"target": disk.target, "nowhere": what}),
        })
        .collect();
    println!("{}", json!({"open": disks}));
    // A line, the end of the input, or a signal.
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(std::io::stdin().lock().lines().next().is_some()));
    while lines
        .recv_timeout(Duration::from_millis(20))
        .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
    {
        if effort.is_cancelled() {
            break;
        }
    }
    match live.finish() {
        Ok(report) => {
            let code = i32::from(!report.marks.is_empty());
            println!("{}", json!({"report": report}));
            std::process::exit(code);
        }
        Err(error) => end(&error),
    }
}

fn end(error: &Error) -> ! {
    println!("{}", json!({"error": error.to_string()}));
    std::process::exit(match error.kind() {
        Kind::Refused => 3,
        Kind::Unrestored => 4,
        _ => 2,
    })
}
