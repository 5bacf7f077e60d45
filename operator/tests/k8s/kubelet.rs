//! Says of every pod that it runs and is ready, as the kubelets of machines would.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

const LOOK: Duration = Duration::from_millis(200);

pub struct Kubelet {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    pub fn new(kubeconfig: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a kubeconfig");
                let client = Client::try_from(config).expect("a client");
                while !stopped.load(Ordering::Relaxed) {
                    // The API server may not be up yet, or a pod gone again: then the next look.
                    let _ = look(&client).await;
                    tokio::time::sleep(LOOK).await;
                }
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn look(client: &Client) -> Result<(), kube::Error> {
    for pod in Api::<Pod>::all(client.clone()).list(&ListParams::default()).await? {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Running") || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let ready = |type_| json!({ "type": type_, "status": "True" });
        let status = json!({ "status": {
            "phase": "Running",
            "conditions": [ready("Ready"), ready("ContainersReady"), ready("Initialized"), ready("PodScheduled")],
        }});
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    Ok(())
}
