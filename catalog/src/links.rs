//! Which table shards refer to objects of which others.
//!
//! An object's key names the table shard that it was minted for: its *home*. Its references are counted from the part lists of
//! its home and of those that a link says to use objects of that home, so these lists are loaded together. A link is written with
//! the first foreign reference (REPLACE PARTITION FROM and its like make one) and lasts as long as the table that has it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::TableShard;

/// The form in which a store keeps parts; written by the first leader of a build that knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreForm(pub u32);

impl StoreForm {
    /// Staged parts lie apart from the others, and links are written. Before it no form was written.
    pub const NEWEST: Self = Self(2);
}

/// Where an object belongs; `None` for a key of another making, which all share.
pub type Home = Option<TableShard>;

/// `user` has, or had, a part that refers to an object of `home`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectLink {
    pub home: Home,
    pub user: TableShard,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    users: BTreeMap<Home, BTreeSet<TableShard>>,
    homes: BTreeMap<TableShard, BTreeSet<Home>>,
}

impl Links {
    pub fn has(&self, link: &ObjectLink) -> bool {
        self.users.get(&link.home).is_some_and(|users| users.contains(&link.user))
    }

    /// Answers whether it was there.
    pub(crate) fn set(&mut self, link: ObjectLink, there: bool) -> bool {
        if there {
            self.homes.entry(link.user).or_default().insert(link.home);
            return !self.users.entry(link.home).or_default().insert(link.user);
        }
        let was = self.users.get_mut(&link.home).is_some_and(|users| users.remove(&link.user));
        self.homes.get_mut(&link.user).map(|homes| homes.remove(&link.home));
        self.users.retain(|_, users| !users.is_empty());
        self.homes.retain(|_, homes| !homes.is_empty());
        was
    }

    /// Those that may refer to objects of `home`, itself included.
    pub fn referring(&self, home: Home) -> impl Iterator<Item = TableShard> {
        home.into_iter().chain(self.users.get(&home).into_iter().flatten().copied())
    }

    pub fn homes_of(&self, user: TableShard) -> impl Iterator<Item = Home> {
        self.homes.get(&user).into_iter().flatten().copied()
    }

    /// All whose lists tell how often the objects are referred to that `at` refers to.
    pub fn group(&self, at: TableShard) -> BTreeSet<TableShard> {
        let homes = std::iter::once(Some(at)).chain(self.homes_of(at));
        homes.flat_map(|home| self.referring(home)).chain([at]).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{ShardId, TableId};

    fn at(table: u128) -> TableShard {
        TableShard { table: TableId(Uuid::from_u128(table)), shard: ShardId(0) }
    }

    #[test]
    fn a_group_is_a_shard_its_homes_and_all_who_use_the_same() {
        let mut links = Links::default();
        let link = |home, user| ObjectLink { home, user };
        assert!(!links.set(link(Some(at(1)), at(2)), true));
        assert!(!links.set(link(Some(at(1)), at(3)), true));
        assert!(!links.set(link(None, at(3)), true));
        assert!(links.set(link(None, at(3)), true), "it was there");
        let group =
            |links: &Links, of| links.group(at(of)).into_iter().map(|at| at.table.0.as_u128()).collect::<Vec<_>>();
        assert_eq!(group(&links, 1), [1, 2, 3]);
        assert_eq!(group(&links, 2), [1, 2, 3]);
        assert_eq!(group(&links, 9), [9]);
        links.set(link(Some(at(1)), at(3)), false);
        assert_eq!((group(&links, 2), group(&links, 3)), (vec![1, 2], vec![3]));
        links.set(link(Some(at(1)), at(2)), false);
        links.set(link(None, at(3)), false);
        assert_eq!(links, Links::default());
    }
}
