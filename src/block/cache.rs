//! One budget of memory for everything that is read twice: tables, directories, unpacked clusters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{BlockSource, Run, Source, within};
use crate::error::Result;

/// Pages of every source of one stack, within one budget. Evicts in CLOCK order.
pub struct Cache {
    shards: Vec<Mutex<Shard>>,
    shard_budget: usize,
    next_owner: AtomicU32,
}

/// Whose pages: one number for each user of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u32);

#[derive(Default)]
struct Shard {
    index: HashMap<(Owner, u64), usize>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
}

struct Slot {
    key: (Owner, u64),
    page: Arc<[u8]>,
    used: bool,
}

const SHARDS: usize = 8;

/// The budget of a stack, unless it is told otherwise, in bytes.
pub const BUDGET: usize = 24 << 20;

impl Cache {
    /// A cache that holds at most about `budget` bytes.
    pub fn new(budget: usize) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let shard_budget = budget.checked_div(SHARDS).unwrap_or(0);
        Arc::new(Self { shards, shard_budget, next_owner: AtomicU32::new(0) })
    }

    /// A fresh owner.
    pub fn owner(&self) -> Owner {
        Owner(self.next_owner.fetch_add(1, Ordering::Relaxed))
    }

    /// Page `number` of `owner`, from memory or from `load`. Two threads that miss at once both load.
    pub fn page(
        &self,
        owner: Owner,
        number: u64,
        load: impl FnOnce() -> Result<Arc<[u8]>>,
    ) -> Result<Arc<[u8]>> {
        let key = (owner, number);
        if let Some(page) = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Ok(page);
        }
        let page = load()?;
        self.shard(key).lock().unwrap_or_else(PoisonError::into_inner).put(key, &page, self.shard_budget);
        Ok(page)
    }

    #[allow(clippy::indexing_slicing, reason = "a remainder of the length")]
    fn shard(&self, key: (Owner, u64)) -> &Mutex<Shard> {
        let hash = key.1.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(key.0.0)) >> 32;
        &self.shards[usize::try_from(hash).unwrap_or(0) % SHARDS]
    }
}

impl Shard {
    fn get(&mut self, key: (Owner, u64)) -> Option<Arc<[u8]>> {
        let slot = self.slots.get_mut(*self.index.get(&key)?)?;
        slot.used = true;
        Some(Arc::clone(&slot.page))
    }

    fn put(&mut self, key: (Owner, u64), page: &Arc<[u8]>, budget: usize) {
        if self.index.contains_key(&key) || page.len() > budget {
            return;
        }
        self.bytes = self.bytes.saturating_add(page.len());
        while self.bytes > budget {
            self.evict();
        }
        self.index.insert(key, self.slots.len());
        self.slots.push(Slot { key, page: Arc::clone(page), used: false });
    }

    /// Drops the first page under the hand that was not used since the hand last passed.
    fn evict(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let Some(slot) = self.slots.get_mut(self.hand) else {
                self.bytes = 0;
                return;
            };
            if slot.used {
                slot.used = false;
                self.hand = self.hand.saturating_add(1);
                continue;
            }
            let gone = self.slots.swap_remove(self.hand);
            self.index.remove(&gone.key);
            self.bytes = self.bytes.saturating_sub(gone.page.len());
            if let Some(moved) = self.slots.get(self.hand) {
                self.index.insert(moved.key, self.hand);
            }
            return;
        }
    }
}

/// A source whose small reads go through the cache. Meant for metadata; reads of a page or more pass straight through.
pub struct Cached {
    inner: Source,
    cache: Arc<Cache>,
    owner: Owner,
    page: u64,
}

/// The size of a cached page, in bytes: a qcow2 cluster's usual size, so that a packed cluster is unpacked once.
pub const PAGE: u64 = 64 << 10;

impl Cached {
    /// `inner` through `cache`.
    pub fn new(inner: Source, cache: &Arc<Cache>) -> Self {
        Self { inner, owner: cache.owner(), cache: Arc::clone(cache), page: PAGE }
    }

    /// The source below, for content that is read once.
    pub fn inner(&self) -> &Source {
        &self.inner
    }
}

impl BlockSource for Cached {
    fn name(&self) -> &Arc<str> {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        within(self, offset, buf.len() as u64)?;
        if buf.len() as u64 >= self.page {
            return self.inner.read_at(offset, buf);
        }
        let (mut at, mut rest) = (offset, &mut *buf);
        while !rest.is_empty() {
            let number = at.checked_div(self.page).unwrap_or(0);
            let start = number.saturating_mul(self.page);
            let len = self.page.min(self.len().saturating_sub(start));
            let page = self.cache.page(self.owner, number, || {
                let mut page = vec![0; usize::try_from(len).unwrap_or(0)];
                self.inner.read_at(start, &mut page)?;
                Ok(page.into())
            });
            // The page holds more than was asked for, and the fault may lie in the rest of it.
            let Ok(page) = page else { return self.inner.read_at(at, rest) };
            let from = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let have = page.get(from..).unwrap_or_default();
            let take = have.len().min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(have.get(..take).unwrap_or_default());
            if take == 0 {
                return self.inner.read_at(at, later);
            }
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    /// As below: the cache is no level of its own.
    fn run_at(&self, offset: u64) -> Result<Run<'_>> {
        self.inner.run_at(offset)
    }
}
