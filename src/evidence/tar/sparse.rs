//! Sparse files in a tar: GNU's form 1.0, a map in text before the data (GNU tar manual, "Storing Sparse Files").

use crate::block::{Source, State};
use crate::evidence::chunks::{Chunks, PIECE};

/// Extents kept in a map; what comes after that many is stored as it is, zeros too.
const EXTENTS_MAX: usize = 1 << 18;

/// Where a file has data.
pub(super) struct Map {
    len: u64,
    /// Start and length, in order.
    extents: Vec<(u64, u64)>,
    /// From here on everything is stored.
    whole_from: u64,
}

impl Map {
    /// The map of a content, if it has holes that are worth it.
    pub fn of(content: &Source) -> Option<Self> {
        let len = content.len();
        // As in `stream`: little content is read whole.
        if len <= PIECE as u64 {
            return None;
        }
        let mut map = Self { len, extents: Vec::new(), whole_from: len };
        let mut count = 0;
        for chunk in Chunks::new(&**content).filter(|chunk| chunk.state == State::Data) {
            match map.extents.last_mut() {
                Some((start, len)) if *start + *len == chunk.start => *len += chunk.len,
                _ if count >= EXTENTS_MAX => {
                    map.whole_from = chunk.start;
                    map.extents.push((chunk.start, map.len - chunk.start));
                    break;
                }
                _ => {
                    count += 1;
                    map.extents.push((chunk.start, chunk.len));
                }
            }
        }
        (map.extents != [(0, len)]).then_some(map)
    }

    /// Whether zeros at this offset are stored all the same.
    pub fn holds(&self, offset: u64) -> bool {
        offset >= self.whole_from
    }

    /// Bytes of data.
    pub fn data_len(&self) -> u64 {
        self.extents.iter().map(|(_, len)| len).sum()
    }

    /// The map as it stands before the data, padded to a block.
    pub fn text(&self) -> Vec<u8> {
        let ends_in_hole = self.extents.last().is_none_or(|(start, len)| start + len < self.len);
        let end = ends_in_hole.then_some((self.len, 0));
        let all = self.extents.iter().copied().chain(end);
        let mut text = format!("{}\n", self.extents.len() + usize::from(ends_in_hole)).into_bytes();
        for (start, len) in all {
            text.extend_from_slice(format!("{start}\n{len}\n").as_bytes());
        }
        text.resize(text.len().next_multiple_of(512), 0);
        text
    }
}
