//! SIGINT, SIGTERM and SIGHUP end the work tidily; a second one ends the process. A file that grows past its limit is a
//! failed write and not the end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// The flag that those signals set.
pub fn cancelled() -> Arc<AtomicBool> {
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Registered first: only a signal that finds the flag set already ends the process at once.
        let _ = flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&cancelled));
        let _ = flag::register(signal, Arc::clone(&cancelled));
    }
    // Nobody looks at this flag: with a handler the write itself fails, and whoever wrote says so.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    cancelled
}
