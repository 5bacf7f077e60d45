//! An access policy's reconciliation. The controllers of this version keep no policies, so each is told that it is not applied:
//! nobody shall believe in rights that are not enforced.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::conditions::{Said, renew};
use crate::context::Context;
use crate::crd::{AccessPolicy, AccessPolicyStatus};
use crate::error::OperatorError;

/// Says in the status that the policy is not applied.
///
/// # Errors
/// When the API server refuses.
pub async fn reconcile(policy: Arc<AccessPolicy>, context: Arc<Context>) -> Result<Action, OperatorError> {
    if policy.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = policy.namespace().ok_or(OperatorError::Incomplete("namespace"))?;
    let before = policy.status.clone().unwrap_or_default();
    let message = "nothing of this policy is in force: this version's controllers keep no access policies; the warehouse has \
                   the one user of its spec.admin.secret";
    let generation = policy.metadata.generation;
    let said = [Said::new("Applied", false, "NotSupported", message)];
    let conditions = renew(&before.conditions, &said, generation, Timestamp::now());
    let status = AccessPolicyStatus { observed_generation: generation, conditions };
    if status != before {
        context.write_status::<AccessPolicy, _>(&namespace, &policy.name_any(), &status).await?;
        context.tell(&*policy, &before.conditions, &status.conditions).await;
    }
    Ok(Action::await_change())
}
