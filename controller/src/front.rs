//! What answers at `--listen`: the services while this controller leads, and a refusal that names the leader while it waits;
//! reads of the store at any time.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use moorhouse_catalog::store::Store;
use moorhouse_security::not_leader;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::service::{AxumBody, AxumRouter, Routes};
use tower::ServiceExt;
use tracing::debug;

use crate::limits;

/// What this controller is at the moment.
#[derive(Clone)]
pub enum Role {
    Standby {
        /// `host:port`, if there is one and the store answers.
        leader: Option<String>,
    },
    Leader(Routes),
}

/// Its calls are answered by every controller.
const READS: &str = "/moorhouse.v1.Reads/";

/// Takes every call.
#[derive(Clone)]
pub struct Front {
    role: watch::Receiver<Role>,
    reads: Routes,
}

impl Front {
    pub fn routes(role: watch::Receiver<Role>, reads: Routes) -> Routes {
        AxumRouter::new().fallback_service(Self { role, reads }).into()
    }
}

impl Service<http::Request<AxumBody>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<AxumBody>) -> Self::Future {
        if request.uri().path().starts_with(READS) {
            return self.reads.clone().oneshot(request).boxed();
        }
        match self.role.borrow().clone() {
            Role::Leader(routes) => routes.oneshot(request).boxed(),
            Role::Standby { leader } => std::future::ready(Ok(not_leader(leader.as_deref()).into_http())).boxed(),
        }
    }
}

/// Keeps a standby's idea of the leader fresh, for ever.
pub async fn follow_leader(store: Arc<dyn Store>, role: watch::Sender<Role>) {
    loop {
        let leader = store.leader().await.unwrap_or_else(|error| {
            debug!(%error, "the store does not say who leads");
            None
        });
        role.send_if_modified(|role| match role {
            Role::Standby { leader: known } if *known != leader => {
                *known = leader;
                true
            }
            Role::Standby { .. } | Role::Leader(_) => false,
        });
        tokio::time::sleep(limits::LEADER_LOOK).await;
    }
}
