//! Stands before every service: looks at the method and at the certificate, and lets the request in or not.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tower_layer::Layer;

use crate::accept::Peer;
use crate::caller::{BEHALF_HEADER, CLIENT_HEADER, Caller, Who, header};
use crate::identity::{Identity, RoleKind};
use crate::metrics;
use crate::rules::{Rule, rule_of};

/// Puts a [`Guard`] before a server's services.
#[derive(Clone, Copy)]
pub struct GuardLayer;

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner }
    }
}

#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match admit(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(refusal) => {
                metrics::DENIED.inc();
                let from = request.extensions().get::<Peer>().map(|peer| peer.address);
                tracing::warn!(?from, method = request.uri().path(), "denied: {}", refusal.message());
                Either::Right(ready(Ok(refusal.into_http())))
            }
        }
    }
}

fn admit<B>(request: &Request<B>) -> Result<Caller, Status> {
    // A connection that did not come through `incoming` says nothing of its other end.
    let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("the connection is not guarded"))?;
    check(request.uri().path(), &peer.who)?;
    let from_gateway = match &peer.who {
        Who::Plaintext => true,
        Who::Known(identity) => identity.role().kind() == RoleKind::Gateway,
        Who::Nameless | Who::PlaintextAtTls => false,
    };
    // From anybody else these would be claims without proof.
    let said = |name| if from_gateway { header(request.headers(), name) } else { None };
    Ok(Caller {
        who: peer.who.clone(),
        address: Some(peer.address),
        on_behalf_of: said(BEHALF_HEADER),
        client: said(CLIENT_HEADER),
    })
}

fn check(path: &str, who: &Who) -> Result<(), Status> {
    let rule = match who {
        Who::Plaintext => return Ok(()),
        Who::PlaintextAtTls => {
            return Err(Status::unauthenticated(
                "this port takes TLS only: say https://… and give a certificate with --tls DIR",
            ));
        }
        Who::Known(_) | Who::Nameless => rule_of(path),
    };
    match (rule, who) {
        (Some(Rule::Anybody), _) => Ok(()),
        (_, Who::Nameless) => Err(Status::unauthenticated("a certificate is needed: give one with --tls DIR")),
        (Some(Rule::Roles(roles)), Who::Known(identity)) if roles.contains(&identity.role().kind()) => Ok(()),
        (Some(Rule::Roles(roles)), Who::Known(identity)) => Err(denied(path, identity, roles)),
        (None, _) | (_, Who::Plaintext | Who::PlaintextAtTls) => {
            Err(Status::permission_denied(format!("no rule lets anybody call {path}")))
        }
    }
}

fn denied(path: &str, identity: &Identity, roles: &[RoleKind]) -> Status {
    let needed = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
    let method = path.rsplit('/').next().unwrap_or(path);
    Status::permission_denied(format!("{method} takes the role {needed}; the certificate is of {}", identity.short()))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn known(kind: RoleKind) -> Who {
        Who::Known(Identity::new("prod", kind, "x").expect("valid"))
    }

    fn code(path: &str, who: &Who) -> Code {
        check(path, who).map_or_else(|status| status.code(), |()| Code::Ok)
    }

    #[test]
    fn each_role_gets_its_own() {
        let drop = "/moorhouse.v1.Admin/RemoveNode";
        assert_eq!(code(drop, &known(RoleKind::Admin)), Code::Ok);
        for kind in [RoleKind::Viewer, RoleKind::Agent, RoleKind::Gateway, RoleKind::Controller] {
            assert_eq!(code(drop, &known(kind)), Code::PermissionDenied, "{kind}");
        }
    }

    #[test]
    fn the_nameless_may_only_join() {
        assert_eq!(code("/moorhouse.v1.Enrolment/Join", &Who::Nameless), Code::Ok);
        for (service, method, _) in crate::rules::RULES.iter().filter(|(_, method, _)| *method != "Join") {
            let path = format!("/moorhouse.v1.{service}/{method}");
            assert_eq!(code(&path, &Who::Nameless), Code::Unauthenticated, "{path}");
            assert_eq!(code(&path, &Who::PlaintextAtTls), Code::Unauthenticated, "{path}");
        }
        assert_eq!(code("/moorhouse.v1.Enrolment/Join", &Who::PlaintextAtTls), Code::Unauthenticated);
    }

    #[test]
    fn an_unknown_method_is_nobodys() {
        for kind in RoleKind::ALL {
            assert_eq!(code("/moorhouse.v1.Admin/Explode", &known(kind)), Code::PermissionDenied, "{kind}");
        }
    }
}
