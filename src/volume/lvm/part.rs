//! Reading a [`Part`]: the pieces that arrays and snapshots are made of.

use crate::block::join::Part;
use crate::block::{Origin, Run, State};
use crate::error::{Error, Result};

/// Fills `buf` from byte `inside` of `part`. Ranges in errors are the part's source's own, so they are dropped.
pub(super) fn read(part: &Part, inside: u64, buf: &mut [u8]) -> Result<()> {
    match part {
        Part::Zeros(_) => buf.fill(0),
        Part::Lost(why) => return Err(Error::corrupt(&**why)),
        Part::At(source, start) => {
            let at =
                start.checked_add(inside).ok_or_else(|| Error::corrupt("LVM: a place that overflows"))?;
            source.read_at(at, buf)?;
        }
    }
    Ok(())
}

/// The run at byte `inside` of `part`, at most `len` bytes of it.
pub(super) fn run(part: &Part, inside: u64, len: u64) -> Result<Run<'_>> {
    match part {
        Part::Zeros(state) => Ok(Run::own(len, *state)),
        Part::Lost(_) => Ok(Run::own(len, State::Lost)),
        Part::At(source, start) => match start.checked_add(inside).filter(|at| *at < source.len()) {
            None => Ok(Run::own(len, State::Lost)),
            Some(at) => {
                let below = source.run_at(at)?;
                let origin = Origin::At { source: &**source, offset: at };
                Ok(Run { len: len.min(below.len), state: below.state, origin })
            }
        },
    }
}
