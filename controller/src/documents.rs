//! The gRPC service for `moorctl config` and `moorctl access`: documents in, and back again without their secrets.

use moorhouse_base::secret::Secret;
use moorhouse_catalog::state::{Catalog, Command};
use moorhouse_catalog::{Document, DocumentChange, DocumentKey, DocumentKind, DocumentVersion, NodeName, Revision};
use moorhouse_proto::documents_server::Documents;
use moorhouse_proto::{
    DocumentInfo, DocumentPut, GetHistoryRequest, ListDocumentsReply, ListDocumentsRequest, PutDocumentsReply,
    PutDocumentsRequest,
};
use moorhouse_security::Callers;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::limits;
use crate::owner::Owner;
use crate::published::Published;
use crate::security::Audit;

/// What is shown, and sent back, for a password's hash.
const HIDDEN: &str = "***";
const HASH_FIELD: &str = "password_sha256";

pub struct DocumentService {
    pub owner: Owner,
    pub audit: Audit,
    pub callers: Callers,
}

#[tonic::async_trait]
impl Documents for DocumentService {
    async fn list_documents(
        &self,
        request: Request<ListDocumentsRequest>,
    ) -> Result<Response<ListDocumentsReply>, Status> {
        let kind = request.into_inner().kind;
        let only = if kind.is_empty() { None } else { Some(read_kind(&kind)?) };
        let directory = self.owner.shown().directory;
        let wanted = directory.documents.iter().filter(|(key, _)| only.is_none_or(|kind| key.kind == kind));
        let documents = wanted.filter(|(_, document)| document.body.is_some()).map(info).collect();
        Ok(Response::new(ListDocumentsReply { documents }))
    }

    async fn get_history(&self, request: Request<GetHistoryRequest>) -> Result<Response<ListDocumentsReply>, Status> {
        let GetHistoryRequest { kind, name } = request.into_inner();
        let key = read_key(&kind, &name)?;
        let of = key.clone();
        let history = move |catalog: &Catalog| -> Vec<Document> {
            catalog.document_history(&of).map(|(_, document)| document.clone()).collect()
        };
        let history = self.owner.read(history).await?;
        if history.is_empty() {
            return Err(Status::not_found(format!("there is no {key}")));
        }
        let documents = history.iter().map(|document| info((&key, document))).collect();
        Ok(Response::new(ListDocumentsReply { documents }))
    }

    async fn put_documents(
        &self,
        request: Request<PutDocumentsRequest>,
    ) -> Result<Response<PutDocumentsReply>, Status> {
        let caller = self.callers.of(&request)?;
        let mut changes = Vec::new();
        for put in request.into_inner().changes {
            changes.push(self.read_change(put).await?);
        }
        let keys: Vec<DocumentKey> = changes.iter().map(|change| change.key.clone()).collect();
        let target = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let command = Command::PutDocuments { changes, by: caller.name() };
        let work = async {
            self.owner.apply(command).await.map_err(Status::from)?;
            self.obeyed().await
        };
        self.audit.around(&caller, ("put_documents", &target), work).await?;
        let directory = self.owner.shown().directory;
        let now = keys.iter().filter_map(|key| Some(info((key, directory.documents.get(key)?))));
        Ok(Response::new(PutDocumentsReply { documents: now.collect() }))
    }
}

impl DocumentService {
    async fn read_change(&self, put: DocumentPut) -> Result<DocumentChange, Status> {
        let DocumentPut { kind, name, from_version, remove, body, restore } = put;
        let key = read_key(&kind, &name)?;
        let from = DocumentVersion(from_version);
        let body = match (remove, restore) {
            (true, _) => None,
            (false, 0) => Some(self.with_hash(&key, &body)?),
            (false, restore) => {
                let of = key.clone();
                let find = move |catalog: &Catalog| {
                    let mut history = catalog.document_history(&of);
                    history.find(|(version, _)| version.0 == restore).map(|(_, document)| document.body.clone())
                };
                let missing = || Status::not_found(format!("{key} has no version {restore} any more: see its history"));
                self.owner.read(find).await?.ok_or_else(missing)?
            }
        };
        Ok(DocumentChange { key, from, body })
    }

    /// As one text for one content; the hidden hash is the one that the user has.
    fn with_hash(&self, key: &DocumentKey, body: &str) -> Result<Secret, Status> {
        let invalid =
            |error: serde_json::Error| Status::invalid_argument(format!("{key}: the body is no JSON: {error}"));
        let mut value: serde_json::Value = serde_json::from_str(body).map_err(invalid)?;
        if value.get(HASH_FIELD).is_some_and(|hash| hash == HIDDEN) {
            let directory = self.owner.shown().directory;
            let known = directory.documents.get(key).and_then(|document| document.body.as_ref());
            let known = known.and_then(|body| serde_json::from_str::<serde_json::Value>(body.expose()).ok());
            let hash = known.and_then(|body| body.get(HASH_FIELD).cloned());
            let new = || Status::invalid_argument(format!("{key}: a new user takes a {HASH_FIELD}, not {HIDDEN}"));
            value[HASH_FIELD] = hash.ok_or_else(new)?;
        }
        Ok(Secret::new(value.to_string()))
    }

    /// Waits until each node that is up has applied what is in the catalog now.
    async fn obeyed(&self) -> Result<(), Status> {
        let mut published = self.owner.published();
        let revision = published.borrow_and_update().directory.revision;
        let deadline = Instant::now() + limits::DOCUMENTS_TIMEOUT;
        loop {
            let waiting = waiting(&published.borrow_and_update(), revision);
            if waiting.is_empty() {
                return Ok(());
            }
            let changed = tokio::time::timeout_at(deadline, published.changed()).await;
            match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(crate::error::ControllerError::Stopping.into()),
                Err(_) => return Err(Status::deadline_exceeded(disobeyed(&waiting))),
            }
        }
    }
}

/// Nodes that are up and behind, with what they have said about it.
fn waiting(shown: &Published, revision: Revision) -> Vec<(NodeName, String)> {
    let behind =
        shown.liveness.up().filter(|(node, live)| !shown.has_applied(node, revision) || !live.config_error.is_empty());
    behind.map(|(node, live)| (node.clone(), live.config_error.clone())).collect()
}

fn disobeyed(waiting: &[(NodeName, String)]) -> String {
    let said = |(node, error): &(NodeName, String)| match error.as_str() {
        "" => node.to_string(),
        error => format!("{node} ({error})"),
    };
    let nodes: Vec<String> = waiting.iter().map(said).collect();
    format!(
        "the documents are kept, but after {} s these nodes do not obey them: {}; look at the log there, and correct the \
         documents or roll them back",
        limits::DOCUMENTS_TIMEOUT.as_secs(),
        nodes.join(", ")
    )
}

fn info((key, document): (&DocumentKey, &Document)) -> DocumentInfo {
    let Document { version, body, by, at_ms } = document;
    DocumentInfo {
        kind: key.kind.as_str().to_owned(),
        name: key.name().to_owned(),
        version: version.0,
        removed: body.is_none(),
        body: body.as_ref().map(hidden).unwrap_or_default(),
        by: by.clone(),
        at_ms: *at_ms,
    }
}

/// Without the password's hash. What cannot be read is not shown at all.
fn hidden(body: &Secret) -> String {
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(body.expose()) else { return HIDDEN.to_owned() };
    if let Some(hash) = value.get_mut(HASH_FIELD) {
        *hash = HIDDEN.into();
    }
    value.to_string()
}

fn read_kind(kind: &str) -> Result<DocumentKind, Status> {
    DocumentKind::read(kind).ok_or_else(|| {
        let kinds: Vec<&str> = DocumentKind::ALL.into_iter().map(DocumentKind::as_str).collect();
        Status::invalid_argument(format!("there is no kind {kind:?} of documents: there are {}", kinds.join(", ")))
    })
}

fn read_key(kind: &str, name: &str) -> Result<DocumentKey, Status> {
    DocumentKey::new(read_kind(kind)?, name).ok_or_else(|| {
        let most = DocumentKey::NAME_BYTES;
        Status::invalid_argument(format!("{name:?} is no document's name: 1 to {most} letters, digits and _ - . /"))
    })
}
