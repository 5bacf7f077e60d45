//! Writes the built objects: server-side apply, one field manager, and never over somebody else's object.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::conditions::Problem;
use crate::error::OperatorError;
use crate::names::MANAGER;

/// The kinds that the operator makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ServiceAccount,
    Service,
    StatefulSet,
    Deployment,
    PodDisruptionBudget,
    NetworkPolicy,
}

impl Kind {
    /// Group, version, kind, plural.
    fn words(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
        }
    }

    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.words();
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }
}

/// An object as it is to be: its kind, and everything below its apiVersion and kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    pub kind: Kind,
    pub name: String,
    pub content: Value,
}

impl Built {
    /// Whole, as it is sent.
    pub fn to_json(&self) -> Value {
        let resource = self.kind.resource();
        let mut whole = self.content.clone();
        whole["apiVersion"] = resource.api_version.into();
        whole["kind"] = resource.kind.into();
        whole["metadata"]["name"] = self.name.clone().into();
        whole
    }
}

/// In their order, as far as it goes; the next attempt begins anew. `owner` is the uid of the resource that they belong to.
/// What stands in the way, if the user can mend it.
///
/// # Errors
/// What is worth another attempt.
pub async fn apply(
    client: &Client,
    namespace: &str,
    owner: &str,
    objects: &[Built],
) -> Result<Option<Problem>, OperatorError> {
    match apply_all(client, namespace, owner, objects).await {
        Ok(()) => Ok(None),
        Err(error) => error.as_problem().map(Some).ok_or(error),
    }
}

async fn apply_all(client: &Client, namespace: &str, owner: &str, objects: &[Built]) -> Result<(), OperatorError> {
    let how = PatchParams::apply(MANAGER).force().validation_strict();
    for object in objects {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &object.kind.resource());
        if let Some(found) = api.get_opt(&object.name).await? {
            check_owner(object, &found, owner)?;
        }
        api.patch(&object.name, &how, &Patch::Apply(object.to_json())).await?;
    }
    Ok(())
}

fn check_owner(object: &Built, found: &DynamicObject, owner: &str) -> Result<(), OperatorError> {
    let owners = found.owner_references();
    if owners.iter().any(|reference| reference.uid == owner) {
        return Ok(());
    }
    let other = owners.first().map_or_else(|| "nobody".to_owned(), |other| format!("{} {}", other.kind, other.name));
    Err(OperatorError::Taken { kind: object.kind.words().2, name: object.name.clone(), owner: other })
}
