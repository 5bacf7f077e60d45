//! A compute group's reconciliation: dereference → validate → plan, build → apply → status.

mod build;
mod claims;
mod dereference;
mod scale;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::apply::apply;
use crate::conditions::Problem;
use crate::context::Context;
use crate::controller::ControllerError;
use crate::crd::ComputeGroup;
use crate::error::OperatorError;
use crate::{finalizer, limits, names};
use dereference::Seen;
use scale::Step;

/// Once, from whatever state there is.
///
/// # Errors
/// What is worth another attempt. Bad input is none: it is told by the status.
pub async fn reconcile(group: Arc<ComputeGroup>, context: Arc<Context>) -> Result<Action, OperatorError> {
    let seen = dereference::dereference(&group, &context).await?;
    if group.metadata.deletion_timestamp.is_some() {
        return delete(&group, &seen, &context).await;
    }
    finalizer::add(&*group, &context.client).await?;
    let report = match validate::validate(&group, &seen) {
        Err(problem) => status::refused(&problem),
        Ok(warehouse) => {
            let plan = scale::plan(&seen.scaling);
            let obstacle = carry_out(&plan.step, &group, &seen, &context).await?;
            let objects = build::build(&group, warehouse, &seen.claim_size, plan.replicas);
            match apply(&context.client, &seen.namespace, &seen.uid, &objects).await? {
                Some(problem) => status::refused(&problem),
                None => {
                    let stuck = claims::grow(&group, &seen, &context.client).await?;
                    status::report(&seen, &plan, obstacle.or(stuck).as_ref())
                }
            }
        }
    };
    let is_settled = report.is_settled;
    status::write(&group, &seen, report, &context, Timestamp::now()).await?;
    Ok(Action::requeue(if is_settled { limits::IDLE } else { limits::BUSY }))
}

/// Does what the step asks of others than the API server's workload controllers. What stands in the way, if something does.
async fn carry_out(
    step: &Step,
    group: &ComputeGroup,
    seen: &Seen,
    context: &Context,
) -> Result<Option<Problem>, OperatorError> {
    let name = group.name_any();
    let controller = context.controllers.of(&seen.namespace, &group.spec.warehouse, &seen.controller_url)?;
    match step {
        Step::Settled
        | Step::Raise
        | Step::Lower
        | Step::AwaitPod(_)
        | Step::AwaitController
        | Step::AwaitStored(_) => Ok(None),
        Step::Drain(nodes) => {
            // One after the other: the controller moves one shard of a group at a time anyway.
            let first = nodes.iter().next_back().map(|ordinal| names::node(&name, *ordinal));
            Ok(first.and_then(|node| controller.drain(&node).err()).map(|why| Problem::new("DrainFailed", why)))
        }
        Step::MarkClaim(ordinal) => {
            claims::mark_emptied(&name, *ordinal, seen, &context.client).await?;
            Ok(None)
        }
        Step::Forget(ordinal) => match controller.remove_node(&names::node(&name, *ordinal)).await {
            Ok(()) => Ok(None),
            Err(ControllerError::Refused(why) | ControllerError::Silent(why)) => {
                Ok(Some(Problem::new("RemovalRefused", why)))
            }
        },
        Step::DeleteClaim(ordinal) => {
            claims::delete(&name, *ordinal, seen, &context.client).await?;
            Ok(None)
        }
    }
}

/// The nodes stay until what they have staged is stored, if it is within the time that the group gives for it; the volumes stay
/// in any case. It never waits for what cannot come: a controller that is gone, or nodes that are down.
async fn delete(group: &ComputeGroup, seen: &Seen, context: &Context) -> Result<Action, OperatorError> {
    let staged: u64 = seen.scaling.nodes.iter().flatten().filter(|node| node.is_up).map(|node| node.staged_parts).sum();
    let timeout = u64::try_from(group.spec.settle_timeout_seconds).unwrap_or(0);
    let since = group.metadata.deletion_timestamp.as_ref().map_or(Timestamp::now(), |time| time.0);
    let waited = Timestamp::now().duration_since(since).as_secs();
    let is_over = waited >= 0 && Duration::from_secs(waited.unsigned_abs()) >= Duration::from_secs(timeout);
    if staged > 0 && !is_over {
        status::write(group, seen, status::storing(staged), context, Timestamp::now()).await?;
        return Ok(Action::requeue(limits::BUSY));
    }
    if staged > 0 {
        tracing::warn!(group = group.name_any(), staged, "is deleted before all is stored; its volumes have the rest");
    }
    finalizer::remove(group, &context.client).await?;
    Ok(Action::await_change())
}
