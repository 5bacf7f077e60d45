//! The audit: a record before a change begins, and its outcome after it.
//!
//! What cannot be noted is not begun. An outcome that cannot be noted stands in the log, as every record does.

use moorhouse_catalog::state::{Command, Reply};
use moorhouse_catalog::{AuditOutcome, AuditSeq, Deed};
use moorhouse_security::Caller;
use tonic::Status;
use tracing::{info, warn};

use crate::error::ControllerError;
use crate::owner::Owner;

#[derive(Clone)]
pub struct Audit {
    owner: Owner,
}

/// A change that was noted and has no outcome yet.
pub struct Noted {
    owner: Owner,
    seq: AuditSeq,
    deed: Deed,
}

impl Audit {
    pub fn new(owner: Owner) -> Self {
        Self { owner }
    }

    /// Durable when this answers.
    pub async fn begin(&self, caller: &Caller, action: &str, target: &str) -> Result<Noted, ControllerError> {
        let deed = Deed {
            identity: caller.name(),
            user: caller.on_behalf_of.clone(),
            from: caller.from(),
            action: action.to_owned(),
            target: target.to_owned(),
        };
        match self.owner.apply(Command::BeginAudit(deed.clone())).await? {
            Reply::Audited(seq) => Ok(Noted { owner: self.owner.clone(), seq, deed }),
            other => Err(ControllerError::Unavailable(format!("the audit was answered with {other:?}"))),
        }
    }

    /// Notes the outcome of a deed that is known by its number. What cannot be noted stands in the log.
    pub async fn end_of(&self, seq: AuditSeq, outcome: Result<(), String>) {
        let error = outcome.as_ref().err().map(String::as_str).unwrap_or_default();
        info!(seq = seq.0, done = outcome.is_ok(), error, "audit");
        finish(&self.owner, seq, outcome).await;
    }

    /// Does `work` between a record's two writes.
    pub async fn around<T>(
        &self,
        caller: &Caller,
        (action, target): (&str, &str),
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let noted = self.begin(caller, action, target).await?;
        let done = work.await;
        noted.end(done.as_ref().map(drop).map_err(|status| status.message().to_owned())).await;
        done
    }
}

impl Noted {
    /// For a deed whose end somebody else will note, perhaps another leader: by [`Audit::end_of`].
    pub fn into_seq(self) -> AuditSeq {
        self.seq
    }

    pub async fn end(self, outcome: Result<(), String>) {
        let Self { owner, seq, deed } = self;
        let Deed { identity, user, from, action, target } = deed;
        let error = outcome.as_ref().err().map(String::as_str).unwrap_or_default();
        let (seq_number, done) = (seq.0, outcome.is_ok());
        info!(seq = seq_number, %identity, user, %from, %action, %target, done, error, "audit");
        finish(&owner, seq, outcome).await;
    }
}

async fn finish(owner: &Owner, seq: AuditSeq, outcome: Result<(), String>) {
    let outcome = match outcome {
        Ok(()) => AuditOutcome::Done,
        Err(error) => AuditOutcome::Failed { error },
    };
    if let Err(error) = owner.apply(Command::FinishAudit { seq, outcome }).await {
        warn!(seq = seq.0, %error, "the outcome could not be noted in the audit");
    }
}
