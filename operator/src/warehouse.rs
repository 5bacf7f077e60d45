//! A warehouse's reconciliation: dereference → validate → build → apply → status.

mod build;
mod dereference;
mod status;
mod validate;

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::apply::apply;
use crate::context::Context;
use crate::crd::Warehouse;
use crate::error::OperatorError;
use crate::finalizer;
use crate::limits;

pub use build::{account_of, controller_url};

/// Once, from whatever state there is.
///
/// # Errors
/// What is worth another attempt. Bad input is none: it is told by the status.
pub async fn reconcile(warehouse: Arc<Warehouse>, context: Arc<Context>) -> Result<Action, OperatorError> {
    let seen = dereference::dereference(&warehouse, &context).await?;
    if warehouse.metadata.deletion_timestamp.is_some() {
        return delete(&warehouse, &seen, &context).await;
    }
    finalizer::add(&*warehouse, &context.client).await?;
    let report = match validate::validate(&warehouse, &seen) {
        Err(problem) => status::refused(&problem),
        Ok(()) => {
            let objects = build::build(&warehouse, &context.settings);
            match apply(&context.client, &seen.namespace, &seen.uid, &objects).await? {
                Some(problem) => status::refused(&problem),
                None => status::report(&warehouse, &seen),
            }
        }
    };
    let is_settled = report.is_ready;
    status::write(&warehouse, &seen, report, &context, Timestamp::now()).await?;
    Ok(Action::requeue(if is_settled { limits::IDLE } else { limits::BUSY }))
}

/// The controllers stay while a group needs them: a node could not store what it has staged. Bucket and etcd are left alone.
async fn delete(warehouse: &Warehouse, seen: &dereference::Seen, context: &Context) -> Result<Action, OperatorError> {
    if seen.groups.is_empty() {
        tracing::info!(warehouse = warehouse.name_any(), "is deleted; its bucket and its metadata are retained");
        finalizer::remove(warehouse, &context.client).await?;
        return Ok(Action::await_change());
    }
    status::write(warehouse, seen, status::waiting_for_groups(&seen.groups), context, Timestamp::now()).await?;
    Ok(Action::requeue(limits::BUSY))
}
