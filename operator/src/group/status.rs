//! What a compute group's status says.

use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::conditions::{Problem, Said, renew};
use crate::context::Context;
use crate::controller::ControllerError;
use crate::crd::{ComputeGroup, ComputeGroupStatus};
use crate::error::OperatorError;
use crate::group::build::connection_string;
use crate::group::dereference::Seen;
use crate::group::scale::{Plan, Step};
use crate::names::{self, Component};

pub struct Report {
    /// Nothing is under way that no watch tells of.
    pub is_settled: bool,
    said: [Said; 4],
}

fn as_expected() -> Said {
    Said::new("Degraded", false, "AsExpected", "")
}

fn not_suspended() -> Said {
    Said::new("Suspended", false, "Running", "")
}

/// Nothing was built, or changed.
pub fn refused(problem: &Problem) -> Report {
    let said = [
        Said::new("Ready", false, problem.reason, &problem.message),
        Said::new("Progressing", false, problem.reason, "nothing is changed until this is corrected"),
        Said::new("Degraded", true, problem.reason, &problem.message),
        not_suspended(),
    ];
    Report { is_settled: false, said }
}

pub fn storing(staged: u64) -> Report {
    let message = format!("{staged} parts are yet to be stored before the nodes end");
    let said = [
        Said::new("Ready", false, "Deleting", &message),
        Said::new("Progressing", true, "StoringParts", &message),
        as_expected(),
        not_suspended(),
    ];
    Report { is_settled: false, said }
}

/// `obstacle` is what keeps something from being done that is under way.
pub fn report(seen: &Seen, plan: &Plan, obstacle: Option<&Problem>) -> Report {
    let progressing = progressing(seen, plan);
    let degraded = match obstacle {
        Some(problem) => Said::new("Degraded", true, problem.reason, &problem.message),
        None => as_expected(),
    };
    let ready = ready(seen, plan);
    let is_settled = !progressing.holds && (ready.holds || is_suspended(seen, plan));
    let suspended = if is_suspended(seen, plan) {
        Said::new("Suspended", true, "Suspended", "all is stored, and no node runs; the endpoint and the volumes stay")
    } else {
        not_suspended()
    };
    Report { is_settled, said: [ready, progressing, degraded, suspended] }
}

fn is_suspended(seen: &Seen, plan: &Plan) -> bool {
    seen.scaling.wanted == 0 && plan.replicas == 0 && seen.scaling.pods.is_empty()
}

fn progressing(seen: &Seen, plan: &Plan) -> Said {
    let running = seen.scaling.running;
    let say = |reason, message: String| Said::new("Progressing", true, reason, message);
    match &plan.step {
        Step::Settled => Said::new("Progressing", false, "Settled", ""),
        Step::Raise => say("ScalingOut", format!("from {running} to {} nodes", plan.replicas)),
        Step::Lower => say("ScalingIn", format!("from {running} to {} nodes: those that go are empty", plan.replicas)),
        Step::Drain(nodes) => {
            let held: u32 =
                seen.scaling.nodes.iter().flatten().filter(|n| nodes.contains(&n.ordinal)).map(|n| n.shards).sum();
            say("Draining", format!("{held} shards are yet to leave {} nodes", nodes.len()))
        }
        Step::AwaitStored(parts) => say("StoringParts", format!("{parts} parts are yet to be stored before nodes end")),
        Step::AwaitController => say(
            "AwaitingController",
            "nothing is scaled in without the controller's word, and it does not answer".to_owned(),
        ),
        Step::AwaitPod(ordinal) => say("ScalingIn", format!("pod {ordinal} is ending")),
        Step::MarkClaim(ordinal) | Step::Forget(ordinal) => {
            say("ScalingIn", format!("node {ordinal} is being taken off the controller's books"))
        }
        Step::DeleteClaim(ordinal) => {
            say("ScalingIn", format!("the emptied volume of node {ordinal} is being deleted"))
        }
    }
}

fn ready(seen: &Seen, plan: &Plan) -> Said {
    let no = |reason, message: String| Said::new("Ready", false, reason, message);
    if seen.scaling.wanted == 0 {
        let reason = if is_suspended(seen, plan) { "Suspended" } else { "Suspending" };
        return no(reason, "spec.suspend is true, or spec.replicas is 0".to_owned());
    }
    let said = match &seen.controller {
        Ok(said) => said,
        // In what way it is silent may change from one attempt to the next, and is not worth an update of the status.
        Err(ControllerError::Silent(_)) => return no("ControllerSilent", "the controller does not answer".to_owned()),
        Err(ControllerError::Refused(why)) => return no("ControllerRefused", why.clone()),
    };
    let nodes = i64::from(seen.nodes_ready);
    if nodes < i64::from(plan.replicas) || plan.step == Step::Raise {
        return no("NodesStarting", format!("{nodes} of {} nodes are ready", plan.replicas));
    }
    if said.shards_assigned < said.shards {
        return no("ShardsUnassigned", format!("{} of {} shards have a node", said.shards_assigned, said.shards));
    }
    if seen.gateways_ready == 0 {
        return no("GatewaysStarting", "no gateway is ready".to_owned());
    }
    Said::new("Ready", true, "NodesReady", format!("{nodes} nodes serve {} shards", said.shards))
}

pub async fn write(
    group: &ComputeGroup,
    seen: &Seen,
    report: Report,
    context: &Context,
    now: Timestamp,
) -> Result<(), OperatorError> {
    let before = group.status.clone().unwrap_or_default();
    let name = group.name_any();
    let generation = group.meta().generation;
    let shards = seen
        .controller
        .as_ref()
        .map_or(before.shards_mounted, |said| i32::try_from(said.shards_assigned).unwrap_or(i32::MAX));
    let status = ComputeGroupStatus {
        observed_generation: generation,
        replicas: i32::try_from(seen.scaling.pods.len()).unwrap_or(i32::MAX),
        selector: Some(names::selector_text(Component::Node, &group.spec.warehouse, Some(&name))),
        nodes_ready: seen.nodes_ready,
        shards_mounted: shards,
        connection_string: seen.warehouse.as_ref().map(|warehouse| connection_string(group, warehouse)),
        conditions: renew(&before.conditions, &report.said, generation, now),
    };
    context.tell(group, &before.conditions, &status.conditions).await;
    if status != before {
        context.write_status::<ComputeGroup, _>(&seen.namespace, &name, &status).await?;
    }
    Ok(())
}
