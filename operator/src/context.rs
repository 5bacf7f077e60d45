//! What every reconciliation is given.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::conditions::events;
use crate::controller::Controllers;
use crate::error::OperatorError;
use crate::names::MANAGER;

/// The operator's own, as far as the built objects show it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the operator runs.
    pub namespace: String,
}

pub struct Context {
    pub client: Client,
    pub controllers: Controllers,
    pub settings: Settings,
    pub failures: Failures,
    recorder: Recorder,
}

/// Failures in a row, by object.
#[derive(Default)]
pub struct Failures {
    counts: Mutex<HashMap<String, u32>>,
}

impl Failures {
    pub fn one_more(&self, object: &str) -> u32 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(object.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    pub fn none(&self, object: &str) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

impl Context {
    pub fn new(client: Client, controllers: Controllers, settings: Settings) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: None };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            controllers,
            settings,
            failures: Failures::default(),
        }
    }

    /// Events for what has changed. They are a courtesy: the status says it all, so that one which is refused holds nothing up.
    pub async fn tell<K: Resource<DynamicType = ()>>(&self, about: &K, before: &[Condition], now: &[Condition]) {
        for event in events(before, now) {
            if let Err(error) = self.recorder.publish(&event, &about.object_ref(&())).await {
                tracing::warn!(%error, reason = event.reason, "an event could not be published");
            }
        }
    }

    /// Applies the whole status.
    pub async fn write_status<K, S>(&self, namespace: &str, name: &str, status: &S) -> Result<(), OperatorError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        S: Serialize,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let content = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status });
        let how = PatchParams::apply(MANAGER).force().validation_strict();
        match api.patch_status(name, &how, &Patch::Apply(content)).await {
            // It has gone in the meantime; an apply must not bring it back, and cannot, without a spec.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => Ok(outcome.map(|_| ())?),
        }
    }
}
