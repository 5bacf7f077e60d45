//! The loops: watches, and a reconciliation for whatever has changed.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use rand::RngExt;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::crd::{AccessPolicy, ComputeGroup, Warehouse};
use crate::error::OperatorError;
use crate::names::MANAGED;
use crate::{access, group, limits, metrics, warehouse};

/// Until `stop`. What is under way is finished first.
pub async fn run(context: Arc<Context>, namespace: Option<String>, stop: CancellationToken) {
    let client = context.client.clone();
    let ours = || watcher::Config::default().labels(MANAGED);
    let place = namespace.as_deref();

    let warehouses = Controller::new(api::<Warehouse>(&client, place), watcher::Config::default());
    let groups = Controller::new(api::<ComputeGroup>(&client, place), watcher::Config::default());
    let policies = Controller::new(api::<AccessPolicy>(&client, place), watcher::Config::default());
    let known_groups = groups.store();
    // A group waits for its warehouse, and a warehouse's end for its groups.
    let groups_of = move |warehouse: Warehouse| {
        let (name, namespace) = (warehouse.name_any(), warehouse.namespace());
        let own = known_groups.state().into_iter();
        let own = own.filter(move |group| group.spec.warehouse == name && group.namespace() == namespace);
        own.map(|group| ObjectRef::from_obj(&*group)).collect::<Vec<_>>()
    };
    let warehouse_of = |group: ComputeGroup| {
        let namespace = group.namespace().unwrap_or_default();
        Some(ObjectRef::<Warehouse>::new(&group.spec.warehouse).within(&namespace))
    };
    let warehouses = warehouses.owns(api::<StatefulSet>(&client, place), ours()).watches(
        api::<ComputeGroup>(&client, place),
        watcher::Config::default(),
        warehouse_of,
    );
    let groups = groups
        .owns(api::<StatefulSet>(&client, place), ours())
        .owns(api::<Deployment>(&client, place), ours())
        .watches(api::<Warehouse>(&client, place), watcher::Config::default(), groups_of);
    tokio::join!(
        drive(warehouses, metrics::Resource::Warehouse, warehouse::reconcile, &context, &stop),
        drive(groups, metrics::Resource::ComputeGroup, group::reconcile, &context, &stop),
        drive(policies, metrics::Resource::AccessPolicy, access::reconcile, &context, &stop),
    );
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn drive<K, F>(
    controller: Controller<K>,
    resource: metrics::Resource,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Send + Sync + 'static,
    context: &Arc<Context>,
    stop: &CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Hash + Eq + Unpin,
    F: Future<Output = Result<Action, OperatorError>> + Send + 'static,
{
    let measured = move |object: Arc<K>, context: Arc<Context>| {
        let (started, place) = (Instant::now(), place_of(&*object));
        let work = reconcile(object, Arc::clone(&context));
        async move {
            let outcome = work.await;
            if outcome.is_ok() {
                context.failures.none(&place);
            }
            let label = if outcome.is_ok() { metrics::Outcome::Ok } else { metrics::Outcome::Failed };
            metrics::RECONCILIATIONS.with_label_values(&[resource.label(), label.label()]).inc();
            metrics::SECONDS.with_label_values(&[resource.label()]).observe(started.elapsed().as_secs_f64());
            outcome
        }
    };
    let stop = stop.clone();
    controller
        .with_config(Config::default().concurrency(limits::CONCURRENCY))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(measured, retry, Arc::clone(context))
        .for_each(|outcome| async move {
            match outcome {
                Ok((object, _)) => tracing::debug!(%object, "reconciled"),
                // Said where it was met: see `retry`.
                Err(kube::runtime::controller::Error::ReconcilerFailed(..)) => {}
                Err(kube::runtime::controller::Error::ObjectNotFound(object)) => tracing::debug!(%object, "has gone"),
                Err(error) => tracing::warn!(%error, "a watch failed; it begins anew"),
            }
        })
        .await;
}

/// When to try again, with chance in it, so that many that failed together do not come back together.
fn retry<K: Resource<DynamicType = ()>>(object: Arc<K>, error: &OperatorError, context: Arc<Context>) -> Action {
    let place = place_of(&*object);
    let failures = context.failures.one_more(&place);
    tracing::warn!(object = place, %error, failures, reason = error.reason(), "cannot be reconciled; it is tried again");
    let longest = limits::RETRY_FROM.saturating_mul(1 << failures.min(10)).min(limits::RETRY_TO);
    Action::requeue(longest.mul_f64(rand::rng().random_range(0.5..1.0)))
}

fn place_of<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
}
