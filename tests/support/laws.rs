//! The laws that hold for every `BlockSource`, as one function that every implementation is put through.

use coldread::block::{BlockSource, Origin, Run, State};

/// Runs looked at in one source.
const RUNS_MAX: u64 = 20_000;

/// Bytes read of one run, at each of its ends.
const SAMPLE: u64 = 64 << 10;

/// Checks laws 1 to 3 over all of `source`, which has to be sound: no read fails but where a run says `Lost`.
///
/// 1. Runs are non-empty, contiguous and cover the length.
/// 2. Zero and Hole read as zeros; Lost fails on read, and the range it names lies in the source.
/// 3. For `At`, reading there gives the same bytes; for `From`, the inputs lie in their source.
pub fn laws(source: &dyn BlockSource) {
    let (name, len) = (source.name().clone(), source.len());
    assert_eq!(source.is_empty(), len == 0, "{name}");
    assert!(source.run_at(len).is_err(), "{name}: a run at the end");
    assert!(source.run_at(u64::MAX).is_err(), "{name}: a run at 2^64 - 1");
    assert!(source.read_at(len, &mut [0]).is_err(), "{name}: a read at the end");
    assert!(source.read_at(u64::MAX, &mut [0; 2]).is_err(), "{name}: a read that overflows");
    assert!(source.read_at(len, &mut []).is_ok(), "{name}: no bytes at the end");

    let (mut at, mut runs) = (0, 0);
    while at < len && runs < RUNS_MAX {
        let run = source.run_at(at).unwrap_or_else(|error| panic!("{name}: run at {at:#x}: {error}"));
        assert!(run.len > 0, "{name}: an empty run at {at:#x}");
        assert!(run.len <= len - at, "{name}: the run at {at:#x} of {:#x} ends past {len:#x}", run.len);
        check_run(source, at, &run);
        // A run looked at in its middle is the rest of it, or the start of a further one; never another state.
        let middle = at + run.len / 2;
        let rest =
            source.run_at(middle).unwrap_or_else(|error| panic!("{name}: run at {middle:#x}: {error}"));
        assert_eq!(rest.state, run.state, "{name}: the state at {middle:#x}, in the run at {at:#x}");
        check_origin(source, middle, &rest, 1);
        at += run.len;
        runs += 1;
    }
    assert!(at == len || runs == RUNS_MAX, "{name}: runs end at {at:#x} of {len:#x}");
    pieces(source);
}

fn check_run(source: &dyn BlockSource, at: u64, run: &Run<'_>) {
    let take = run.len.min(SAMPLE);
    for start in [at, at + run.len - take] {
        if run.state == State::Lost {
            lost(source, start, take);
            continue;
        }
        let bytes = read(source, start, take);
        if run.state.reads_zero() {
            assert!(
                bytes.iter().all(|b| *b == 0),
                "{}: {:?} at {start:#x} is not zeros",
                source.name(),
                run.state
            );
        }
        let shifted =
            Run { len: run.len - (start - at), state: run.state, origin: moved(&run.origin, start - at) };
        check_origin(source, start, &shifted, take);
    }
}

fn moved<'a>(origin: &Origin<'a>, by: u64) -> Origin<'a> {
    match origin {
        Origin::At { source, offset } => Origin::At { source: *source, offset: offset + by },
        other => other.clone(),
    }
}

fn check_origin(source: &dyn BlockSource, at: u64, run: &Run<'_>, take: u64) {
    match &run.origin {
        Origin::At { source: below, offset } if run.state != State::Lost => {
            assert!(
                read(source, at, take) == read(*below, *offset, take),
                "{} at {at:#x} differs from {} at {offset:#x}",
                source.name(),
                below.name()
            );
        }
        Origin::From { inputs, .. } => {
            assert!(!inputs.as_slice().is_empty(), "{}: made of nothing at {at:#x}", source.name());
            for input in inputs.as_slice() {
                let inside = input.range.start < input.range.end && input.range.end <= input.source.len();
                assert!(inside, "{}: input {input:?} of {at:#x}", source.name());
            }
        }
        _ => {}
    }
}

/// A lost range fails as a whole and byte by byte, and the error names bytes of this source, the asked ones among them.
fn lost(source: &dyn BlockSource, at: u64, len: u64) {
    let mut buf = vec![0; usize::try_from(len).unwrap()];
    for buf in [&mut buf[..], &mut [0]] {
        let wanted = at..at + buf.len() as u64;
        let error = source.read_at(at, buf).expect_err("a lost range gives no bytes");
        if let Some(range) = error.range() {
            assert!(range.start < range.end && range.end <= source.len(), "{}: {range:x?}", source.name());
            assert!(range.start < wanted.end && wanted.start < range.end, "{}: {range:x?}", source.name());
        }
    }
}

fn read(source: &dyn BlockSource, at: u64, len: u64) -> Vec<u8> {
    let mut buf = vec![0xa5; usize::try_from(len).unwrap()];
    source
        .read_at(at, &mut buf)
        .unwrap_or_else(|error| panic!("{}: {len} bytes at {at:#x}: {error}", source.name()));
    buf
}

/// However a source is read, its bytes are the same: in odd pieces from odd places as in one go.
fn pieces(source: &dyn BlockSource) {
    let len = source.len().min(3 << 20);
    let mut whole = vec![0xa5; usize::try_from(len).unwrap()];
    if source.read_at(0, &mut whole).is_err() {
        return;
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..200 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let start = state % (len + 1);
        let take = (state >> 20) % (1 << ((state >> 40) % 19)).min(len - start + 1);
        let take = take.min(len - start);
        let (from, to) = (usize::try_from(start).unwrap(), usize::try_from(start + take).unwrap());
        assert!(
            read(source, start, take) == whole[from..to],
            "{}: {take} bytes at {start:#x}",
            source.name()
        );
    }
}
