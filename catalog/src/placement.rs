//! Which shard should be on which node: pure and deterministic.
//!
//! Every node gets its share by weight, rounded up or down; among the ways to do so, one with the fewest moves is taken.

use std::collections::BTreeMap;

use crate::ids::{NodeName, ShardId};

/// A node that may hold shards: it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: NodeName,
    /// Relative to the others; a node of weight 0 gets nothing.
    pub weight: u32,
    /// Gets nothing, and gives away what it has.
    pub draining: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub shard: ShardId,
    pub from: NodeName,
    pub to: NodeName,
}

/// The fewest steps to balance. Shards on nodes that are not among `candidates` cannot be moved and are not counted. Empty if
/// no candidate can take a shard.
pub fn steps(candidates: &[Candidate], assignments: &BTreeMap<ShardId, NodeName>) -> Vec<Step> {
    let mut held: BTreeMap<&NodeName, Vec<ShardId>> = candidates.iter().map(|c| (&c.name, Vec::new())).collect();
    for (shard, node) in assignments {
        if let Some(shards) = held.get_mut(node) {
            shards.push(*shard);
        }
    }
    let Some(quotas) = quotas(candidates, &held) else { return Vec::new() };
    let mut given = Vec::new();
    for (node, shards) in &mut held {
        let keep = quotas[*node].min(shards.len());
        given.extend(shards.split_off(keep).into_iter().map(|shard| (shard, (*node).clone())));
    }
    given.sort_unstable_by_key(|(shard, _)| *shard);
    let mut room: Vec<(&NodeName, usize)> =
        held.iter().map(|(node, shards)| (*node, quotas[*node].saturating_sub(shards.len()))).collect();
    let mut steps = Vec::with_capacity(given.len());
    for (shard, from) in given {
        // The emptiest first, so that a run that is broken off has helped where it was needed most.
        let most = room.iter().map(|(_, free)| *free).max().unwrap_or(0);
        if let Some((to, free)) = room.iter_mut().find(|(_, free)| *free == most && most > 0) {
            *free -= 1;
            steps.push(Step { shard, from, to: (*to).clone() });
        }
    }
    steps
}

/// How many shards each candidate is to hold; `None` if nobody can hold any.
fn quotas<'a>(
    candidates: &'a [Candidate],
    held: &BTreeMap<&'a NodeName, Vec<ShardId>>,
) -> Option<BTreeMap<&'a NodeName, usize>> {
    let total: u64 = held.values().map(|shards| shards.len() as u64).sum();
    let weight = |c: &Candidate| if c.draining { 0 } else { u64::from(c.weight) };
    let weights: u64 = candidates.iter().map(weight).sum();
    if weights == 0 {
        return None;
    }
    let mut quotas: BTreeMap<&NodeName, usize> =
        candidates.iter().map(|c| (&c.name, (total * weight(c) / weights) as usize)).collect();
    let mut left = total as usize - quotas.values().sum::<usize>();
    // Who holds more than its floor keeps one more, for that saves a move; then the largest remainder; then the name.
    let mut order: Vec<&Candidate> =
        candidates.iter().filter(|c| !(total * weight(c)).is_multiple_of(weights)).collect();
    order.sort_by_key(|c| {
        let above = held[&c.name].len() > quotas[&c.name];
        (!above, std::cmp::Reverse(total * weight(c) % weights), &c.name)
    });
    for candidate in order {
        if left > 0 {
            *quotas.get_mut(&candidate.name)? += 1;
            left -= 1;
        }
    }
    Some(quotas)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a valid name")
    }
    fn candidate(name: &str, weight: u32, draining: bool) -> Candidate {
        Candidate { name: node(name), weight, draining }
    }
    fn on(nodes: &[&str]) -> BTreeMap<ShardId, NodeName> {
        (0..).map(ShardId).zip(nodes.iter().map(|n| node(n))).collect()
    }

    #[test]
    fn a_new_node_fills() {
        let candidates = [candidate("a", 1, false), candidate("b", 1, false), candidate("c", 1, false)];
        let steps = steps(&candidates, &on(&["a", "b", "a", "b", "a", "b", "a", "b"]));
        assert_eq!(steps.len(), 2);
        assert!(steps.iter().all(|s| s.to == node("c")));
    }

    #[test]
    fn a_draining_node_empties() {
        let candidates = [candidate("a", 1, true), candidate("b", 1, false)];
        assert_eq!(steps(&candidates, &on(&["a", "b", "a"])).len(), 2);
        assert_eq!(steps(&candidates[..1], &on(&["a", "a"])), [], "nowhere to go");
    }

    type Setting = (Vec<Candidate>, BTreeMap<ShardId, NodeName>);

    fn settings() -> impl Strategy<Value = Setting> {
        let nodes = proptest::collection::vec((1u32..4, proptest::bool::weighted(0.2)), 1..7);
        (nodes, proptest::collection::vec(0usize..7, 0..40)).prop_map(|(nodes, shards)| {
            let candidates: Vec<_> =
                nodes.iter().enumerate().map(|(i, (w, d))| candidate(&format!("n{i}"), *w, *d)).collect();
            let holder = |i: usize| candidates[i % candidates.len()].name.clone();
            let assignments = (0..).map(ShardId).zip(shards.into_iter().map(holder)).collect();
            (candidates, assignments)
        })
    }

    fn counts(candidates: &[Candidate], assignments: &BTreeMap<ShardId, NodeName>) -> Vec<usize> {
        candidates.iter().map(|c| assignments.values().filter(|n| **n == c.name).count()).collect()
    }

    proptest! {
        #[test]
        fn balances_with_the_fewest_moves((candidates, before) in settings()) {
            let planned = steps(&candidates, &before);
            let mut after = before.clone();
            for step in &planned {
                prop_assert_ne!(&step.from, &step.to);
                let from = after.insert(step.shard, step.to.clone());
                prop_assert_eq!(from.as_ref(), Some(&step.from), "each shard moves at most once");
            }
            prop_assert_eq!(steps(&candidates, &after), vec![], "balanced is balanced");

            let weights: u64 = candidates.iter().filter(|c| !c.draining).map(|c| u64::from(c.weight)).sum();
            if weights == 0 {
                prop_assert!(planned.is_empty());
                return Ok(());
            }
            let total = before.len() as u64;
            let (mut least, mut extra, mut above) = (0, total, 0);
            for (c, (now, then)) in candidates.iter().zip(counts(&candidates, &before).into_iter().zip(counts(&candidates, &after))) {
                let weight = if c.draining { 0 } else { u64::from(c.weight) };
                let floor = total * weight / weights;
                let ceil = (total * weight).div_ceil(weights);
                prop_assert!((floor..=ceil).contains(&(then as u64)), "{} holds {then} of {floor}..={ceil}", c.name);
                extra -= floor;
                least += (now as u64).saturating_sub(floor);
                above += u64::from(now as u64 > floor && ceil > floor);
            }
            // At best every share that is rounded up goes to a node that has it already.
            prop_assert_eq!(planned.len() as u64, least - extra.min(above));
        }

        #[test]
        fn the_order_of_candidates_does_not_matter((mut candidates, assignments) in settings()) {
            let forward = steps(&candidates, &assignments);
            candidates.reverse();
            prop_assert_eq!(forward, steps(&candidates, &assignments));
        }
    }
}
