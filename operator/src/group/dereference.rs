//! Reads all that a group's reconciliation depends on. The only step that reads.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::context::Context;
use crate::controller::ControllerError;
use crate::crd::{ComputeGroup, Warehouse};
use crate::error::OperatorError;
use crate::group::scale::{NodeSeen, Scaling};
use crate::names::{self, Component, EMPTIED_ANNOTATION};
use crate::warehouse::controller_url;

pub struct Seen {
    pub namespace: String,
    pub uid: String,
    pub warehouse: Option<Warehouse>,
    pub controller_url: String,
    pub controller: Result<FromController, ControllerError>,
    pub scaling: Scaling,
    /// Of new volumes: a StatefulSet cannot change it, so it is what the set was made with.
    pub claim_size: String,
    pub claims: Vec<PersistentVolumeClaim>,
    pub nodes_ready: i32,
    pub gateways_ready: i32,
}

/// What the controller says of the group.
pub struct FromController {
    pub shards: u32,
    pub shards_assigned: u32,
}

pub async fn dereference(group: &ComputeGroup, context: &Context) -> Result<Seen, OperatorError> {
    let namespace = group.namespace().ok_or(OperatorError::Incomplete("namespace"))?;
    let name = group.name_any();
    let client = &context.client;
    let warehouses: Api<Warehouse> = Api::namespaced(client.clone(), &namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);

    let warehouse = warehouses.get_opt(&group.spec.warehouse).await?;
    let controller_url = warehouse.as_ref().map(|found| controller_url(found, &namespace)).unwrap_or_default();
    let set = sets.get_opt(&names::nodes(&name)).await?;
    let gateway = deployments.get_opt(&names::gateway(&name)).await?;
    let selector = names::selector_text(Component::Node, &group.spec.warehouse, Some(&name));
    let of_nodes = ListParams::default().labels(&selector);
    let pods = pods.list_metadata(&of_nodes).await?;
    let claims = claims.list(&of_nodes).await?.items;
    let (controller, nodes) = match &warehouse {
        Some(_) => ask(group, &namespace, &controller_url, context).await,
        None => (Err(ControllerError::Silent("there is no warehouse".to_owned())), None),
    };
    let spec = set.as_ref().and_then(|set| set.spec.as_ref());
    let scaling = Scaling {
        wanted: if group.spec.suspend { 0 } else { group.spec.replicas.unsigned_abs() },
        running: spec.and_then(|spec| spec.replicas).unwrap_or(0).unsigned_abs(),
        pods: pods.iter().filter_map(|pod| names::ordinal_of(&name, &pod.name_any())).collect::<BTreeSet<u32>>(),
        claims: claims_by_ordinal(&name, &claims),
        nodes,
    };
    let set_size = spec.and_then(|spec| spec.volume_claim_templates.as_ref()?.first()?.spec.as_ref());
    let set_size = set_size.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage").cloned());
    Ok(Seen {
        uid: group.uid().ok_or(OperatorError::Incomplete("uid"))?,
        claim_size: set_size.map_or_else(|| group.spec.cache.size.clone(), |size| size.0),
        nodes_ready: set.and_then(|set| set.status?.ready_replicas).unwrap_or(0),
        gateways_ready: gateway.and_then(|gateway| gateway.status?.ready_replicas).unwrap_or(0),
        namespace,
        warehouse,
        controller_url,
        controller,
        scaling,
        claims,
    })
}

fn claims_by_ordinal(group: &str, claims: &[PersistentVolumeClaim]) -> BTreeMap<u32, bool> {
    let known = claims.iter().filter_map(|claim| {
        let name = claim.name_any();
        let node = name.strip_prefix(names::CLAIM)?.strip_prefix('-')?;
        Some((names::ordinal_of(group, node)?, claim.annotations().contains_key(EMPTIED_ANNOTATION)))
    });
    known.collect()
}

/// A group that the controller does not know yet is made there: a node may join an existing group only.
async fn ask(
    group: &ComputeGroup,
    namespace: &str,
    urls: &str,
    context: &Context,
) -> (Result<FromController, ControllerError>, Option<Vec<NodeSeen>>) {
    let name = group.name_any();
    let asked = async {
        let controller = context.controllers.of(namespace, &group.spec.warehouse, urls)?;
        let nodes = controller.nodes(&name).await?;
        if nodes.is_none() && group.metadata.deletion_timestamp.is_none() {
            controller.create_group(&name).await?;
        }
        let status = controller.status().await?;
        let assigned = status.groups.iter().find(|known| known.name == name).map_or(0, |known| known.shards_assigned);
        Ok((FromController { shards: status.shards, shards_assigned: assigned }, nodes.unwrap_or_default()))
    };
    match asked.await {
        Ok((said, nodes)) => {
            let seen = nodes.into_iter().filter_map(|node| {
                Some(NodeSeen {
                    ordinal: names::ordinal_of(&name, &node.node)?,
                    is_up: node.up,
                    is_draining: node.draining,
                    shards: node.shards,
                    staged_parts: node.load.map_or(0, |load| load.staged_parts),
                })
            });
            (Ok(said), Some(seen.collect()))
        }
        Err(error) => (Err(error), None),
    }
}
