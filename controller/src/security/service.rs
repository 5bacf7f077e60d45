//! The gRPC service for `moorctl token` and `moorctl audit`.

use moorhouse_catalog::state::{Catalog, Command};
use moorhouse_catalog::{AuditOutcome, AuditRecord, GroupName, JoinToken, TokenHash, TokenState};
use moorhouse_proto::security_server::Security;
use moorhouse_proto::{
    AuditEntry, CreateJoinTokenReply, CreateJoinTokenRequest, JoinTokenInfo, ListAuditReply, ListAuditRequest,
    ListJoinTokensReply, ListJoinTokensRequest, RevokeJoinTokenReply, RevokeJoinTokenRequest,
};
use moorhouse_security::Callers;
use std::sync::Arc;
use tonic::{Request, Response, Status};

use super::audit::Audit;
use super::enrolment::Issuer;
use super::token;
use crate::error::OrBadRequest;
use crate::limits;
use crate::owner::Owner;
use moorhouse_base::clock::Clock;

pub struct SecurityService {
    pub owner: Owner,
    pub audit: Audit,
    pub callers: Callers,
    pub issuer: Option<Issuer>,
    pub clock: Arc<dyn Clock>,
}

#[tonic::async_trait]
impl Security for SecurityService {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenReply>, Status> {
        let caller = self.callers.of(&request)?;
        let CreateJoinTokenRequest { group, ttl_ms } = request.into_inner();
        let text = "this controller issues no certificates: start it with --tls DIR and --issuer DIR";
        let issuer = self.issuer.as_ref().ok_or_else(|| Status::failed_precondition(text))?;
        let group = GroupName::new(group).or_bad_request()?;
        let longest = limits::TOKEN_TTL.as_millis() as u64;
        if ttl_ms == 0 || ttl_ms > longest {
            let text = format!("a join token lasts 1 ms to {} days", limits::TOKEN_TTL.as_secs() / 86_400);
            return Err(Status::invalid_argument(text));
        }
        let (token, hash) = token::mint(issuer.fingerprint());
        let expires_ms = self.clock.now_ms().saturating_add(ttl_ms);
        let id = hash.short().to_owned();
        let target = format!("token {id}, group {group}");
        let create = Command::CreateJoinToken { hash, group, expires_ms };
        let work = async { self.owner.apply(create).await.map_err(Status::from) };
        self.audit.around(&caller, ("create_join_token", &target), work).await?;
        Ok(Response::new(CreateJoinTokenReply { token: token.expose().to_owned(), id, expires_ms }))
    }

    async fn list_join_tokens(
        &self,
        _request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensReply>, Status> {
        let now_ms = self.clock.now_ms();
        let list = move |catalog: &Catalog| catalog.tokens().values().map(|token| token_info(token, now_ms)).collect();
        let mut tokens: Vec<JoinTokenInfo> = self.owner.read(list).await?;
        tokens.sort_by_key(|token| token.created_ms);
        Ok(Response::new(ListJoinTokensReply { tokens }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenReply>, Status> {
        let caller = self.callers.of(&request)?;
        let id = request.into_inner().id;
        let begun = id.clone();
        let named = move |catalog: &Catalog| -> Vec<TokenHash> {
            catalog.tokens().keys().filter(|hash| hash.short() == begun).cloned().collect()
        };
        let hash = match &self.owner.read(named).await?[..] {
            [hash] => hash.clone(),
            _ => return Err(Status::not_found(format!("there is no join token {id}"))),
        };
        let work = async { self.owner.apply(Command::RevokeJoinToken(hash)).await.map_err(Status::from) };
        self.audit.around(&caller, ("revoke_join_token", &format!("token {id}")), work).await?;
        Ok(Response::new(RevokeJoinTokenReply {}))
    }

    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditReply>, Status> {
        let ListAuditRequest { since_ms, at_most } = request.into_inner();
        let at_most = if at_most == 0 { usize::MAX } else { at_most as usize };
        let list = move |catalog: &Catalog| {
            let fitting = catalog.audit().values().rev().filter(|record| record.at_ms >= since_ms);
            let mut entries: Vec<AuditEntry> = fitting.take(at_most).map(audit_entry).collect();
            entries.reverse();
            entries
        };
        Ok(Response::new(ListAuditReply { entries: self.owner.read(list).await? }))
    }
}

fn token_info(token: &JoinToken, now_ms: u64) -> JoinTokenInfo {
    let JoinToken { hash, group, created_ms, expires_ms, state } = token;
    let (word, node) = match state {
        TokenState::Open if *expires_ms <= now_ms => ("expired", String::new()),
        TokenState::Open => ("open", String::new()),
        TokenState::Used { node, .. } => ("used", node.to_string()),
        TokenState::Revoked => ("revoked", String::new()),
    };
    JoinTokenInfo {
        id: hash.short().to_owned(),
        group: group.to_string(),
        created_ms: *created_ms,
        expires_ms: *expires_ms,
        state: word.to_owned(),
        node,
    }
}

fn audit_entry(record: &AuditRecord) -> AuditEntry {
    let AuditRecord { seq, at_ms, deed, outcome } = record.clone();
    let (word, error) = match outcome {
        AuditOutcome::Running => ("running", String::new()),
        AuditOutcome::Done => ("done", String::new()),
        AuditOutcome::Failed { error } => ("failed", error),
    };
    AuditEntry {
        seq: seq.0,
        at_ms,
        identity: deed.identity,
        user: deed.user.unwrap_or_default(),
        from: deed.from,
        action: deed.action,
        target: deed.target,
        outcome: word.to_owned(),
        error,
    }
}
