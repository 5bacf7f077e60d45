//! Commands on join tokens and on the audit.

use crate::entry::Entry;
use crate::ids::{GroupName, NodeName};
use crate::state::command::{CatalogError, Reply};
use crate::state::plan::{Plan, Planned};
use crate::trust::{AuditOutcome, AuditRecord, AuditSeq, Deed, JoinToken, TokenHash, TokenState};

/// Old records that one command takes along: few, so that it stays small; more than one, so that none pile up.
const PRUNED_AT_ONCE: usize = 8;

impl<'a> Plan<'a> {
    pub fn create_join_token(mut self, hash: TokenHash, group: GroupName, expires_ms: u64) -> Planned<'a> {
        if !self.directory().groups.contains_key(&group) {
            return Err(CatalogError::UnknownGroup(group));
        }
        if expires_ms <= self.now_ms {
            return Err(CatalogError::Invalid("a join token must last for a while: give a longer --ttl".to_owned()));
        }
        if self.catalog.tokens.contains_key(&hash) {
            return Err(CatalogError::Invalid("this join token is there already".to_owned()));
        }
        let limits = &self.catalog.limits;
        let is_old = |token: &&JoinToken| token.expires_ms.saturating_add(limits.token_kept_ms) < self.now_ms;
        let old: Vec<TokenHash> =
            self.catalog.tokens.values().filter(is_old).map(|t| t.hash.clone()).take(PRUNED_AT_ONCE).collect();
        let left = self.catalog.tokens.len() - old.len();
        if left >= limits.tokens {
            return Err(CatalogError::NotNow(format!("there are {left} join tokens: wait until some have expired")));
        }
        self.entries.extend(old.into_iter().map(|hash| Entry::Token(hash, None)));
        let token =
            JoinToken { hash: hash.clone(), group, created_ms: self.now_ms, expires_ms, state: TokenState::Open };
        self.push(Entry::Token(hash, Some(token)));
        self.done(Reply::Changed(true))
    }

    /// Only one asker ever gets past this; the same one may ask again.
    pub fn use_join_token(
        mut self,
        hash: TokenHash,
        node: NodeName,
        group: GroupName,
        request_sha256: String,
    ) -> Planned<'a> {
        let refused = |why: &str| CatalogError::NotNow(format!("the join token is not accepted: {why}"));
        let Some(token) = self.catalog.tokens.get(&hash) else { return Err(refused("it is unknown")) };
        if token.expires_ms <= self.now_ms {
            return Err(refused("it has expired: make another with `moorctl token create`"));
        }
        let used = TokenState::Used { node: node.clone(), request_sha256 };
        match &token.state {
            TokenState::Open => {}
            state if *state == used => return self.unchanged(),
            TokenState::Used { node, .. } => return Err(refused(&format!("node {node} has used it"))),
            TokenState::Revoked => return Err(refused("it was revoked")),
        }
        if token.group != group {
            return Err(refused(&format!("it is for group {}, not {group}", token.group)));
        }
        // Else its holder could take the place, and the shards, of a node that is there.
        let earlier = self
            .catalog
            .tokens
            .values()
            .any(|token| matches!(&token.state, TokenState::Used { node: other, .. } if *other == node));
        if self.directory().nodes.contains_key(&node) || earlier {
            return Err(refused(&format!(
                "there is a node {node} already: choose another name, or give it a certificate with `moorctl cert issue`"
            )));
        }
        let token = JoinToken { state: used, ..token.clone() };
        self.push(Entry::Token(hash, Some(token)));
        self.done(Reply::Changed(true))
    }

    pub fn revoke_join_token(mut self, hash: TokenHash) -> Planned<'a> {
        let Some(token) = self.catalog.tokens.get(&hash) else {
            return Err(CatalogError::UnknownToken(hash.short().to_owned()));
        };
        if token.state == TokenState::Revoked {
            return self.unchanged();
        }
        let token = JoinToken { state: TokenState::Revoked, ..token.clone() };
        self.push(Entry::Token(hash, Some(token)));
        self.done(Reply::Changed(true))
    }

    pub fn begin_audit(mut self, deed: Deed) -> Planned<'a> {
        let audit = &self.catalog.audit;
        let limits = &self.catalog.limits;
        let seq = AuditSeq(audit.keys().next_back().map_or(0, |newest| newest.0) + 1);
        let excess = (audit.len() + 1).saturating_sub(limits.audit_kept);
        let is_old = |record: &AuditRecord| record.at_ms.saturating_add(limits.audit_kept_ms) < self.now_ms;
        let pruned = audit.values().enumerate().take_while(|(index, record)| *index < excess || is_old(record));
        let pruned: Vec<AuditSeq> = pruned.map(|(_, record)| record.seq).take(PRUNED_AT_ONCE).collect();
        self.entries.extend(pruned.into_iter().map(|seq| Entry::Audit(seq, None)));
        let record = AuditRecord { seq, at_ms: self.now_ms, deed: deed.bounded(), outcome: AuditOutcome::Running };
        self.push(Entry::Audit(seq, Some(record)));
        self.done(Reply::Audited(seq))
    }

    /// A record that was pruned meanwhile is no error: the outcome stands in the log too.
    pub fn finish_audit(mut self, seq: AuditSeq, outcome: AuditOutcome) -> Planned<'a> {
        let Some(record) = self.catalog.audit.get(&seq) else { return self.unchanged() };
        if record.outcome != AuditOutcome::Running {
            return Err(CatalogError::NotNow(format!("audit record {} has its outcome already", seq.0)));
        }
        let record = AuditRecord { outcome: outcome.bounded(), ..record.clone() };
        self.push(Entry::Audit(seq, Some(record)));
        self.done(Reply::Changed(true))
    }
}
