//! A change with very many removals, as several that each fit into one transaction of the metadata store.

use moorhouse_catalog::parts::PartInfo;
use moorhouse_catalog::{PartChange, PartPath};

/// Changes to be committed in this order. A part that has to do with what is added goes together with it, however many there
/// are: gone before, its rows would be missing for a moment. The others were let go of before, so they go first.
pub fn split(mut change: PartChange, at_most: usize) -> Vec<PartChange> {
    let added: Vec<&PartPath> = change.added.iter().map(|part| &part.part).collect();
    let read: Vec<PartInfo> = added.iter().filter_map(|path| PartInfo::parse(path.as_str())).collect();
    let belongs = |path: &PartPath| {
        let overlaps = |part: PartInfo| read.iter().any(|new| new.overlaps(&part));
        added.contains(&path) || PartInfo::parse(path.as_str()).is_some_and(overlaps) || names_a_detached(path, &added)
    };
    let (together, alone): (Vec<_>, Vec<_>) = change.removed.iter().cloned().partition(belongs);
    let removal = |paths: &[PartPath]| PartChange { removed: paths.to_vec(), ..PartChange::default() };
    let mut pieces: Vec<PartChange> = alone.chunks(at_most.max(1)).map(removal).collect();
    change.removed = together;
    if change != PartChange::default() {
        pieces.push(change);
    }
    pieces
}

/// A rename between `detached/` and the table changes the name and keeps the bytes: both or neither.
fn names_a_detached(path: &PartPath, added: &[&PartPath]) -> bool {
    (path.as_str().contains('/') && !added.is_empty()) || added.iter().any(|new| new.as_str().contains('/'))
}

#[cfg(test)]
mod tests {
    use moorhouse_catalog::Manifest;

    use super::*;

    fn path(name: &str) -> PartPath {
        PartPath::new(name).expect("valid")
    }

    fn change(removed: &[&str], added: &[&str]) -> PartChange {
        let part = |name: &&str| Manifest {
            part: path(name),
            rows: 1,
            committed_ms: 0,
            files: Vec::new(),
            copies: Vec::new(),
        };
        PartChange {
            removed: removed.iter().map(|name| path(name)).collect(),
            added: added.iter().map(part).collect(),
            ..PartChange::default()
        }
    }

    #[test]
    fn removals_alone_go_in_small_pieces() {
        let names: Vec<String> = (0..7).map(|n| format!("all_{n}_{n}_0")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let pieces = split(change(&names, &[]), 3);
        assert_eq!(pieces.iter().map(|piece| piece.removed.len()).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(pieces.into_iter().flat_map(|piece| piece.removed).collect::<Vec<_>>(), change(&names, &[]).removed);
    }

    #[test]
    fn what_the_new_part_stands_for_goes_with_it() {
        let pieces = split(change(&["all_1_1_0", "all_2_2_0", "all_9_9_0", "b_1_1_0"], &["all_1_3_1"]), 1);
        assert_eq!(
            pieces,
            [
                change(&["all_9_9_0"], &[]),
                change(&["b_1_1_0"], &[]),
                change(&["all_1_1_0", "all_2_2_0"], &["all_1_3_1"]),
            ]
        );
        let detaching = change(&["all_1_1_0", "all_2_2_0"], &["detached/all_1_1_0"]);
        assert_eq!(split(detaching.clone(), 1), [detaching]);
        let attaching = change(&["detached/all_1_1_0", "all_7_7_0"], &["all_5_5_0"]);
        assert_eq!(split(attaching, 1).last(), Some(&change(&["detached/all_1_1_0"], &["all_5_5_0"])));
    }
}
