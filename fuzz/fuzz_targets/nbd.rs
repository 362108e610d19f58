//! An NBD server that answers with any bytes.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use coldread::block::BlockSource;
use coldread::block::nbd::Client;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    // What does not fit the socket's buffer is left out.
    let _ = theirs.set_nonblocking(true);
    let _ = (&theirs).write(bytes);
    let _ = theirs.shutdown(Shutdown::Write);
    let Ok(client) = Client::over(ours, "fuzz", "", Duration::from_secs(5)) else { return };
    let take = usize::try_from(client.len().min(64 << 10)).unwrap_or(0);
    let mut at = 0;
    for _ in 0..64 {
        if at >= client.len() {
            break;
        }
        let Ok(run) = client.run_at(at) else { break };
        assert!(run.len > 0 && run.len <= client.len() - at);
        at += run.len;
    }
    let _ = client.read_at(0, &mut vec![0; take]);
});
