//! Plans step by step, and a world in which they are carried out from every state.

use super::*;

fn node(ordinal: u32) -> NodeSeen {
    NodeSeen { ordinal, is_up: true, is_draining: false, shards: 4, staged_parts: 0 }
}

fn running(wanted: u32, running: u32) -> Scaling {
    Scaling {
        wanted,
        running,
        pods: (0..running).collect(),
        claims: (0..running).map(|ordinal| (ordinal, false)).collect(),
        nodes: Some((0..running).map(node).collect()),
    }
}

#[test]
fn out_is_one_step() {
    assert_eq!(plan(&running(4, 2)), Plan { replicas: 4, step: Step::Raise });
    assert_eq!(plan(&running(2, 2)), Plan { replicas: 2, step: Step::Settled });
}

#[test]
fn in_begins_with_a_drain_and_lowers_nothing() {
    let mut seen = running(1, 3);
    assert_eq!(plan(&seen), Plan { replicas: 3, step: Step::Drain(BTreeSet::from([1, 2])) });
    let nodes = seen.nodes.as_mut().expect("known");
    nodes[1] = NodeSeen { is_draining: true, shards: 0, ..nodes[1] };
    nodes[2] = NodeSeen { is_draining: true, shards: 0, staged_parts: 3, ..nodes[2] };
    assert_eq!(plan(&seen), Plan { replicas: 3, step: Step::AwaitStored(3) });
    seen.nodes.as_mut().expect("known")[2].staged_parts = 0;
    assert_eq!(plan(&seen), Plan { replicas: 1, step: Step::Lower });
}

#[test]
fn nothing_shrinks_without_the_controllers_word() {
    for wanted in [0, 1] {
        let silent = Scaling { nodes: None, ..running(wanted, 3) };
        assert_eq!(plan(&silent), Plan { replicas: 3, step: Step::AwaitController });
    }
}

#[test]
fn a_set_that_somebody_else_has_lowered_is_raised_again() {
    let seen = Scaling { running: 1, ..running(3, 3) };
    assert_eq!(plan(&seen), Plan { replicas: 3, step: Step::Raise });
}

#[test]
fn a_group_comes_back_with_all_nodes_that_hold_shards() {
    let asleep = Scaling { wanted: 2, running: 0, pods: BTreeSet::new(), ..running(2, 4) };
    assert_eq!(plan(&asleep), Plan { replicas: 4, step: Step::Raise });
}

#[test]
fn a_drain_that_has_begun_is_finished() {
    let mut seen = running(3, 3);
    seen.nodes.as_mut().expect("known")[2].is_draining = true;
    assert_eq!(plan(&seen), Plan { replicas: 3, step: Step::Drain(BTreeSet::from([2])) });
}

#[test]
fn a_node_that_was_drained_by_hand_stays() {
    let mut seen = running(3, 3);
    seen.nodes.as_mut().expect("known")[1] = NodeSeen { is_draining: true, shards: 0, ..node(1) };
    assert_eq!(plan(&seen), Plan { replicas: 3, step: Step::Settled });
}

#[test]
fn a_volume_goes_only_when_its_node_is_off_the_books() {
    let mut seen = running(1, 2);
    seen.running = 1;
    seen.nodes.as_mut().expect("known")[1] = NodeSeen { is_draining: true, shards: 0, ..node(1) };
    assert_eq!(plan(&seen).step, Step::AwaitPod(1));
    seen.pods.remove(&1);
    assert_eq!(plan(&seen).step, Step::MarkClaim(1));
    seen.claims.insert(1, true);
    assert_eq!(plan(&seen).step, Step::Forget(1));
    seen.nodes.as_mut().expect("known").pop();
    assert_eq!(plan(&seen).step, Step::DeleteClaim(1));
    seen.claims.remove(&1);
    assert_eq!(plan(&seen).step, Step::Settled);
    // One that was never marked may have anything in it.
    seen.claims.insert(1, false);
    assert_eq!(plan(&seen).step, Step::Settled);
}

/// Carries a step out as the cluster and the controller would; refuses what the controller refuses.
fn happen(seen: &mut Scaling, plan: &Plan) {
    let nodes = seen.nodes.as_mut().expect("the controller answers");
    for ordinal in plan.replicas..seen.running {
        let node = nodes.iter().find(|node| node.ordinal == ordinal).expect("it was on the books");
        assert_eq!(node.staged_parts, 0, "{ordinal} ended with staged parts");
        assert!(seen.wanted == 0 || node.shards == 0, "{ordinal} ended with shards");
    }
    seen.running = plan.replicas;
    seen.pods = (0..plan.replicas).collect();
    for ordinal in 0..plan.replicas {
        assert_ne!(seen.claims.get(&ordinal), Some(&true), "{ordinal} came back to a volume that is to be deleted");
        seen.claims.entry(ordinal).or_insert(false);
        if !nodes.iter().any(|node| node.ordinal == ordinal) {
            nodes.push(node(ordinal));
        }
    }
    match &plan.step {
        Step::Drain(leaving) => {
            let first = *leaving.iter().next_back().expect("a drain is of some node");
            let node = nodes.iter_mut().find(|node| node.ordinal == first).expect("on the books");
            node.is_draining = true;
            node.shards /= 2;
        }
        Step::AwaitStored(_) => nodes.iter_mut().for_each(|node| node.staged_parts = 0),
        Step::MarkClaim(ordinal) => *seen.claims.get_mut(ordinal).expect("there") = true,
        Step::Forget(ordinal) => {
            let at = nodes.iter().position(|node| node.ordinal == *ordinal).expect("on the books");
            assert!(nodes[at].is_empty(), "the controller would refuse");
            nodes.remove(at);
        }
        Step::DeleteClaim(ordinal) => {
            assert!(!nodes.iter().any(|node| node.ordinal == *ordinal), "its node is on the books");
            seen.claims.remove(ordinal);
        }
        Step::Settled | Step::Raise | Step::Lower | Step::AwaitController | Step::AwaitPod(_) => {}
    }
}

/// Whatever is asked for, and changed half-way: it is reached, and nothing that is needed is taken away.
#[test]
fn every_wish_comes_true_and_nothing_is_lost_on_the_way() {
    for (from, first, half_way, then) in
        (0..4).flat_map(|a| (0..4).flat_map(move |b| (0..12).flat_map(move |c| (0..4).map(move |d| (a, b, c, d)))))
    {
        let mut seen = Scaling { wanted: from, ..Scaling { nodes: Some(Vec::new()), ..Scaling::default() } };
        for (wish, steps) in [(from, 60), (first, half_way), (then, 60)] {
            seen.wanted = wish;
            // What does not run stages nothing.
            let up = seen.nodes.iter_mut().flatten().filter(|node| node.ordinal < seen.running);
            if let Some(last) = up.last() {
                last.staged_parts = 2;
            }
            for _ in 0..steps {
                let next = plan(&seen);
                if next.step == Step::Settled {
                    break;
                }
                happen(&mut seen, &next);
            }
        }
        assert_eq!(plan(&seen).step, Step::Settled, "{from} → {first} → ({half_way} steps) → {then}: {seen:?}");
        assert_eq!(seen.running, then, "{from} → {first} → ({half_way} steps) → {then}");
    }
}
