//! Objects that nothing refers to: which of them may still be referred to, and which are orphans of a broken upload.

use crate::ids::ObjectKey;
use crate::minted;
use crate::state::{Catalog, NotLoaded};

/// What the catalog knows of an object that is in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectUse {
    /// A part refers to it.
    Referred,
    /// Its last reference has gone; it is deleted when its grace is over.
    Doomed,
    /// Nothing refers to it yet; an uploader may be about to.
    Fresh,
    /// Nothing refers to it, and nothing ever will.
    Orphan,
    /// Not of this version's making: never deleted.
    Foreign,
}

impl Catalog {
    pub fn use_of(&self, object: &ObjectKey, now_ms: u64) -> Result<ObjectUse, NotLoaded> {
        self.need_of(object)?;
        Ok(if self.is_referenced(object) {
            ObjectUse::Referred
        } else if self.doomed.contains_key(object) {
            ObjectUse::Doomed
        } else if minted::minted_ms(object).is_none() {
            ObjectUse::Foreign
        } else if minted::is_past_grace(object, now_ms, self.limits.orphan_grace_ms) {
            ObjectUse::Orphan
        } else {
            ObjectUse::Fresh
        })
    }

    /// Whether a commit may refer to the object: it is referred to already, or it is young enough for a first time. The lists
    /// that tell must be here.
    pub(crate) fn may_refer_to(&self, object: &ObjectKey, now_ms: u64) -> bool {
        let window = minted::first_reference_ms(self.limits.orphan_grace_ms, self.limits.delete_grace_ms);
        self.is_referenced(object) || minted::may_be_referred_to_first(object, now_ms, window)
    }
}
