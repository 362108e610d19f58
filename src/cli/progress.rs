//! A progress bar on a terminal: bytes, rate, time left. Nothing is drawn anywhere else.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Context;

/// How often the bar looks at the work.
const TICK: Duration = Duration::from_millis(100);

/// A bar that follows the bytes that an effort counts, until it is dropped.
pub struct Progress {
    done: Arc<AtomicBool>,
    drawer: Option<JoinHandle<()>>,
}

impl Progress {
    /// Whether a bar would be drawn at all: only then it is worth asking how much work there is.
    pub fn is_shown(context: &Context) -> bool {
        context.voice.progress && !context.voice.json && std::io::stderr().is_terminal()
    }

    /// Starts a bar for `total` bytes; without a total it shows bytes and rate only.
    pub fn start(context: &Context, total: Option<u64>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        if !Self::is_shown(context) {
            return Self { done, drawer: None };
        }
        let (flag, effort) = (Arc::clone(&done), Arc::clone(&context.effort));
        let drawer = thread::spawn(move || {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style(total.is_some()));
            while !flag.load(Ordering::Relaxed) {
                bar.set_position(effort.advanced());
                thread::sleep(TICK);
            }
            bar.finish_and_clear();
        });
        Self { done, drawer: Some(drawer) }
    }
}

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left"
    } else {
        "{spinner} {bytes} {bytes_per_sec}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(drawer) = self.drawer.take() {
            // The thread only draws; were it to panic, the work is done all the same.
            let _ = drawer.join();
        }
    }
}
