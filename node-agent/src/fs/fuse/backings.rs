//! [`Backings`]: files that the kernel reads by itself, registered once and kept for the next open.
//!
//! The kernel takes one backing per inode for as long as any open file uses it; a blob is one inode's. A point query opens
//! a dozen files for some kilobytes, so those of sealed blobs stay registered when they are closed, the ones used longest
//! ago going first. What the cache gives up must be let go of here too ([`Backings::forget`]): its bytes would stay on the disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use moorhouse_cache::BlobKey;

pub(super) struct Backings<B> {
    keeps: usize,
    open: HashMap<BlobKey, Weak<B>>,
    kept: HashMap<BlobKey, Kept<B>>,
    /// Kept ones by the time of their last use.
    order: BTreeMap<u64, BlobKey>,
    uses: u64,
}

struct Kept<B> {
    backing: Arc<B>,
    used: u64,
}

impl<B> Backings<B> {
    /// Keeps at most so many that nobody has open.
    pub fn new(keeps: usize) -> Self {
        Self { keeps, open: HashMap::new(), kept: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// One for a sealed blob, and whether some open file uses it: then every other open must, even if the cache has given the
    /// blob up, for the kernel mixes no ways of reading an inode.
    pub fn get(&mut self, key: BlobKey) -> Option<(Arc<B>, bool)> {
        let Some(kept) = self.kept.get_mut(&key) else { return Some((self.in_use(key)?, true)) };
        self.order.remove(&kept.used);
        self.uses += 1;
        kept.used = self.uses;
        self.order.insert(self.uses, key);
        let is_open = Arc::strong_count(&kept.backing) > 1;
        Some((kept.backing.clone(), is_open))
    }

    /// One that some open file uses.
    pub fn in_use(&self, key: BlobKey) -> Option<Arc<B>> {
        self.open.get(&key).and_then(Weak::upgrade)
    }

    /// Adds a new one, unless another open was faster: gives the one to use, and what is to be dropped, which must happen
    /// without a lock.
    pub fn add(&mut self, key: BlobKey, backing: B, keep: bool) -> (Arc<B>, Vec<Arc<B>>) {
        let mut gone = Vec::new();
        let backing = match self.in_use(key) {
            Some(first) => {
                gone.push(Arc::new(backing));
                first
            }
            None => {
                let backing = Arc::new(backing);
                self.open.insert(key, Arc::downgrade(&backing));
                backing
            }
        };
        if keep {
            gone.extend(self.forget(key));
            self.uses += 1;
            self.kept.insert(key, Kept { backing: backing.clone(), used: self.uses });
            self.order.insert(self.uses, key);
            gone.extend(self.excess());
        }
        (backing, gone)
    }

    fn excess(&mut self) -> Option<Arc<B>> {
        if self.kept.len() <= self.keeps {
            return None;
        }
        let (_, oldest) = self.order.first_key_value()?;
        self.forget(*oldest)
    }

    /// Keeps it no longer; who has it open goes on. What is given is to be dropped without a lock.
    pub fn forget(&mut self, key: BlobKey) -> Option<Arc<B>> {
        let kept = self.kept.remove(&key)?;
        self.order.remove(&kept.used);
        if Arc::strong_count(&kept.backing) == 1 {
            self.open.remove(&key);
        }
        Some(kept.backing)
    }

    /// An open file is closed; call when what it held has been dropped.
    pub fn closed(&mut self, key: BlobKey) {
        if self.open.get(&key).is_some_and(|backing| backing.strong_count() == 0) {
            self.open.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> BlobKey {
        BlobKey(number)
    }

    #[test]
    fn the_one_used_longest_ago_goes_first() {
        let mut backings = Backings::new(2);
        for number in [1, 2] {
            assert!(backings.add(key(number), number, true).1.is_empty());
        }
        assert_eq!(backings.get(key(1)), Some((Arc::new(1), false)));
        let (_, gone) = backings.add(key(3), 3, true);
        assert_eq!(gone, [Arc::new(2)]);
        assert_eq!([1, 2, 3].map(|number| backings.get(key(number)).is_some()), [true, false, true]);
    }

    #[test]
    fn an_open_inode_has_one_backing_however_many_open_it() {
        let mut backings = Backings::new(1);
        let (first, _) = backings.add(key(1), "first", false);
        let (second, gone) = backings.add(key(1), "second", true);
        assert_eq!((*second, gone), ("first", vec![Arc::new("second")]));
        // Kept or not, who has it open shares it.
        backings.add(key(2), "other", true);
        assert_eq!(backings.get(key(1)), Some((Arc::new("first"), true)));
        drop((first, second));
        assert_eq!(backings.get(key(1)), None);
        backings.closed(key(1));
        assert!(backings.in_use(key(1)).is_none());
        assert_eq!(backings.open.len(), 1, "of the kept one");
    }

    #[test]
    fn what_is_forgotten_is_given_back_once_nobody_has_it_open() {
        let mut backings = Backings::new(8);
        let (open, _) = backings.add(key(1), (), true);
        let freed = Arc::downgrade(&open);
        drop(backings.forget(key(1)));
        assert_eq!(backings.get(key(1)), Some((Arc::new(()), true)), "until it is closed");
        drop(open);
        assert!(backings.get(key(1)).is_none());
        backings.closed(key(1));
        assert!(freed.upgrade().is_none() && backings.open.is_empty() && backings.order.is_empty());
    }
}
