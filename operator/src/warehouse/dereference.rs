//! Reads all that a warehouse's reconciliation depends on. The only step that reads.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::context::Context;
use crate::controller::ControllerError;
use crate::crd::{ComputeGroup, Warehouse};
use crate::error::OperatorError;
use crate::names;
use crate::warehouse::build::controller_url;

pub struct Seen {
    pub namespace: String,
    pub uid: String,
    pub admin: Option<Secret>,
    /// None if none is named; Some(None) if the named one is not there. So below.
    pub credentials: Option<Option<Secret>>,
    pub service_account: Option<Option<ServiceAccount>>,
    pub tls: Option<Option<Secret>>,
    pub controllers: Option<StatefulSet>,
    /// What the leader says of itself: its number of shards.
    pub leader: Result<u32, ControllerError>,
    /// Names of the groups that refer to the warehouse.
    pub groups: Vec<String>,
}

pub async fn dereference(warehouse: &Warehouse, context: &Context) -> Result<Seen, OperatorError> {
    let namespace = warehouse.namespace().ok_or(OperatorError::Incomplete("namespace"))?;
    let name = warehouse.name_any();
    let client = &context.client;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let groups: Api<ComputeGroup> = Api::namespaced(client.clone(), &namespace);
    let service_account = match &warehouse.spec.objects.service_account_name {
        Some(name) => Some(accounts.get_opt(name).await?),
        None => None,
    };
    let controllers = sets.get_opt(&names::controller(&name)).await?;
    let leader = match &controllers {
        Some(_) => leader(warehouse, &namespace, context).await,
        None => Err(ControllerError::Silent("not started yet".to_owned())),
    };
    let all_groups = groups.list(&ListParams::default()).await?;
    Ok(Seen {
        uid: warehouse.uid().ok_or(OperatorError::Incomplete("uid"))?,
        admin: secrets.get_opt(&warehouse.spec.admin.secret).await?,
        credentials: named(&secrets, warehouse.spec.objects.credentials_secret.as_deref()).await?,
        tls: named(&secrets, warehouse.spec.gateway.tls_secret.as_deref()).await?,
        service_account,
        controllers,
        leader,
        groups: all_groups.iter().filter(|group| group.spec.warehouse == name).map(ResourceExt::name_any).collect(),
        namespace,
    })
}

async fn named(secrets: &Api<Secret>, name: Option<&str>) -> Result<Option<Option<Secret>>, OperatorError> {
    match name {
        Some(name) => Ok(Some(secrets.get_opt(name).await?)),
        None => Ok(None),
    }
}

async fn leader(warehouse: &Warehouse, namespace: &str, context: &Context) -> Result<u32, ControllerError> {
    let urls = controller_url(warehouse, namespace);
    let status = context.controllers.of(namespace, &warehouse.name_any(), &urls)?.status().await?;
    Ok(status.shards)
}
