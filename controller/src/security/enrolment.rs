//! Certificates for nodes: the first by a join token, the next ones by the one before.

use std::sync::Arc;

use moorhouse_base::secret::Secret;
use moorhouse_catalog::state::Command;
use moorhouse_catalog::{GroupName, NodeName};
use moorhouse_proto::enrolment_server::Enrolment;
use moorhouse_proto::{CertificateReply, JoinRequest, RenewRequest};
use moorhouse_security::{
    Authority, AuthorityError, Callers, Credentials, Identity, JoinToken, Lifetime, RoleKind, Who, sha256,
};
use tonic::{Request, Response, Status};
use tracing::info;

use super::audit::Audit;
use super::token;
use crate::config::Config;
use crate::error::OrBadRequest;
use crate::owner::Owner;

/// The issuing key, and for which warehouse it issues.
#[derive(Clone)]
pub struct Issuer {
    authority: Arc<Authority>,
    warehouse: String,
    lifetime: Lifetime,
}

impl Issuer {
    /// `None` if the configuration names no issuing key.
    ///
    /// # Errors
    /// For files that cannot be used; one line, with the flag.
    pub fn open(config: &Config, credentials: Option<&Credentials>) -> Result<Option<Self>, String> {
        let (Some(dir), Some(credentials)) = (&config.issuer, credentials) else { return Ok(None) };
        let authority = Authority::open(dir).map_err(|error| format!("--issuer: {error}"))?;
        let warehouse = credentials.current().identity.warehouse().to_owned();
        Ok(Some(Self { authority: Arc::new(authority), warehouse, lifetime: config.issue_for }))
    }

    pub fn fingerprint(&self) -> [u8; 32] {
        self.authority.fingerprint()
    }

    fn sign(&self, request: &[u8], node: &NodeName) -> Result<CertificateReply, Status> {
        let identity = Identity::new(&self.warehouse, RoleKind::Agent, node.as_str()).or_bad_request()?;
        let signed = self.authority.sign(request, &identity, self.lifetime).map_err(|error| match error {
            AuthorityError::Request(_) => Status::invalid_argument(error.to_string()),
            AuthorityError::Read { .. } | AuthorityError::Bad(_) => Status::internal(error.to_string()),
        })?;
        Ok(CertificateReply { certificate_pem: signed, ca_pem: self.authority.certificate_pem().to_owned() })
    }
}

pub struct EnrolmentService {
    pub owner: Owner,
    pub audit: Audit,
    pub callers: Callers,
    pub issuer: Option<Issuer>,
}

impl EnrolmentService {
    fn issuer(&self) -> Result<&Issuer, Status> {
        let text = "this controller issues no certificates: start it with --issuer DIR, or use `moorctl cert issue`";
        self.issuer.as_ref().ok_or_else(|| Status::failed_precondition(text))
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<CertificateReply>, Status> {
        let caller = self.callers.of(&request)?;
        let issuer = self.issuer()?;
        let JoinRequest { token, node, group, request_der } = request.into_inner();
        let token = JoinToken::read(&Secret::new(token)).map_err(Status::invalid_argument)?;
        let node = NodeName::new(node).or_bad_request()?;
        let group = GroupName::new(group).or_bad_request()?;
        // Signed first: a request that is not valid must not use the token up. The answer leaves only with the token used.
        let reply = issuer.sign(&request_der, &node)?;
        let hash = token::hash(&token);
        // Who holds no token that we know is refused without a record: strangers could fill the audit.
        let known = hash.clone();
        if !self.owner.read(move |catalog| catalog.tokens().contains_key(&known)).await? {
            return Err(Status::failed_precondition("the join token is not accepted: it is unknown"));
        }
        let target = format!("node {node}, group {group}, token {}", hash.short());
        let request_sha256 = token::hex(&sha256(&request_der));
        let used = Command::UseJoinToken { hash, node: node.clone(), group, request_sha256 };
        let work = async { self.owner.apply(used).await.map_err(Status::from) };
        self.audit.around(&caller, ("join", &target), work).await?;
        info!(%node, from = %caller.from(), "a node has joined by token");
        Ok(Response::new(reply))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<CertificateReply>, Status> {
        let caller = self.callers.of(&request)?;
        let issuer = self.issuer()?;
        let Who::Known(identity) = &caller.who else {
            return Err(Status::unauthenticated("only the holder of a certificate can renew it"));
        };
        let node = NodeName::new(identity.role().name()).or_bad_request()?;
        // A node that was taken off the books does not come back by itself.
        if !self.owner.shown().directory.nodes.contains_key(&node) {
            return Err(Status::permission_denied(format!("node {node} is not on the books: its certificate ends")));
        }
        let reply = issuer.sign(&request.into_inner().request_der, &node)?;
        info!(%node, from = %caller.from(), "a node's certificate is renewed");
        Ok(Response::new(reply))
    }
}
