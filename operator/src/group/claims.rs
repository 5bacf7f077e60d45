//! The volumes of a group's nodes: they grow in place, and go one by one after the controller has let go of their nodes.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::conditions::Problem;
use crate::crd::ComputeGroup;
use crate::error::OperatorError;
use crate::group::dereference::Seen;
use crate::names::{self, EMPTIED_ANNOTATION};
use crate::quantity;

fn api(seen: &Seen, client: &Client) -> Api<PersistentVolumeClaim> {
    Api::namespaced(client.clone(), &seen.namespace)
}

/// Each to the size that is asked for. What stands in the way, if something does: a storage class that cannot.
pub async fn grow(group: &ComputeGroup, seen: &Seen, client: &Client) -> Result<Option<Problem>, OperatorError> {
    let wanted = &group.spec.cache.size;
    let is_bound = |claim: &&PersistentVolumeClaim| {
        claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
    };
    let bound: Vec<&PersistentVolumeClaim> = seen.claims.iter().filter(is_bound).collect();
    for claim in bound {
        let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
        let has = requests.and_then(|requests| requests.get("storage")).and_then(|size| quantity::bytes(&size.0));
        if has.zip(quantity::bytes(wanted)).is_some_and(|(has, wanted)| has < wanted) {
            let patch = json!({ "spec": { "resources": { "requests": { "storage": wanted } } } });
            let name = claim.name_any();
            let grown = api(seen, client).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
            match grown.map_err(OperatorError::from) {
                Ok(_) => {}
                Err(error) => match error.as_problem() {
                    Some(refusal) => {
                        let message = format!("spec.cache.size: volume {name} cannot grow: {}", refusal.message);
                        return Ok(Some(Problem::new("VolumeCannotGrow", message)));
                    }
                    None => return Err(error),
                },
            }
        }
    }
    Ok(None)
}

/// Its node is drained and its pod gone.
pub async fn mark_emptied(group: &str, ordinal: u32, seen: &Seen, client: &Client) -> Result<(), OperatorError> {
    let patch = json!({ "metadata": { "annotations": { EMPTIED_ANNOTATION: "true" } } });
    let name = names::claim(group, ordinal);
    api(seen, client).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// That very one, as it was seen.
pub async fn delete(group: &str, ordinal: u32, seen: &Seen, client: &Client) -> Result<(), OperatorError> {
    let name = names::claim(group, ordinal);
    let Some(claim) = seen.claims.iter().find(|claim| claim.name_any() == name) else { return Ok(()) };
    let preconditions = Preconditions { uid: claim.uid(), resource_version: claim.resource_version() };
    let how = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api(seen, client).delete(&name, &how).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        outcome => Ok(outcome.map(|_| ())?),
    }
}
