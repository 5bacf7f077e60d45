//! The mark that keeps a resource from going before the operator has done what its end asks for.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::OperatorError;
use crate::names::FINALIZER;

pub async fn add<K>(object: &K, client: &Client) -> Result<(), OperatorError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    if object.finalizers().iter().any(|name| name == FINALIZER) {
        return Ok(());
    }
    let mut all = object.finalizers().to_vec();
    all.push(FINALIZER.to_owned());
    write(object, client, &all).await
}

pub async fn remove<K>(object: &K, client: &Client) -> Result<(), OperatorError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let others: Vec<String> = object.finalizers().iter().filter(|name| *name != FINALIZER).cloned().collect();
    if others.len() == object.finalizers().len() {
        return Ok(());
    }
    write(object, client, &others).await
}

/// Refused when somebody has changed the object since it was read: then it is read again.
async fn write<K>(object: &K, client: &Client, finalizers: &[String]) -> Result<(), OperatorError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let namespace = object.namespace().ok_or(OperatorError::Incomplete("namespace"))?;
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": object.resource_version() } });
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        // It has gone already.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        outcome => Ok(outcome.map(|_| ())?),
    }
}
