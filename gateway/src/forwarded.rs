//! Statements of one group's clients that run on nodes of another group, by the query ids that the clients gave them.
//!
//! Whoever knows such an id may kill the statement where it was sent to. The other group's own statements are out of reach.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorhouse_catalog::GroupName;
use moorhouse_engine::quote_string;

type Running = BTreeMap<GroupName, BTreeMap<String, usize>>;

#[derive(Debug, Clone, Default)]
pub struct Forwarded(Arc<Mutex<Running>>);

impl Forwarded {
    /// Counts a statement as running in `group` until what is returned is dropped.
    pub fn enter(&self, group: &GroupName, query_id: &str) -> Passage {
        *self.lock().entry(group.clone()).or_default().entry(query_id.to_owned()).or_default() += 1;
        Passage { of: self.clone(), group: group.clone(), query_id: query_id.to_owned() }
    }

    /// For each group where such statements run: the value of the setting `additional_table_filters` with which a
    /// KILL QUERY finds them and nothing else.
    pub fn filters(&self) -> Vec<(GroupName, String)> {
        let filter = |ids: &BTreeMap<String, usize>| {
            let ids: Vec<String> = ids.keys().map(|id| quote_string(id)).collect();
            let only = quote_string(&format!("query_id IN ({})", ids.join(", ")));
            format!("{{'system.processes': {only}}}")
        };
        self.lock().iter().map(|(group, ids)| (group.clone(), filter(ids))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One statement on its way through another group.
#[derive(Debug)]
pub struct Passage {
    of: Forwarded,
    group: GroupName,
    query_id: String,
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut running = self.of.lock();
        let Some(ids) = running.get_mut(&self.group) else { return };
        if let Some(count) = ids.get_mut(&self.query_id) {
            *count -= 1;
            if *count == 0 {
                ids.remove(&self.query_id);
            }
        }
        if ids.is_empty() {
            running.remove(&self.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_known_as_long_as_it_runs() {
        let group = GroupName::new("etl").expect("a name");
        let forwarded = Forwarded::default();
        let (first, again) = (forwarded.enter(&group, "it's"), forwarded.enter(&group, "it's"));
        let filters = vec![(group, r"{'system.processes': 'query_id IN (\'it\\\'s\')'}".to_owned())];
        assert_eq!(forwarded.filters(), filters);
        drop(first);
        assert_eq!(forwarded.filters(), filters);
        drop(again);
        assert_eq!(forwarded.filters(), []);
    }
}
