//! The command on documents: all changes of one request, or none.

use std::collections::BTreeMap;

use crate::access;
use crate::documents::{Document, DocumentChange, DocumentKey, DocumentVersion};
use crate::entry::Entry;
use crate::state::command::{CatalogError, Reply};
use crate::state::plan::{Plan, Planned};

/// Longest body, in bytes.
const BODY_BYTES: usize = 64 << 10;
const CHANGES_AT_ONCE: usize = 500;
const DOCUMENTS: usize = 5_000;
/// Versions of one document that are kept.
const VERSIONS: usize = 32;

impl<'a> Plan<'a> {
    /// A body that is there already makes no new version.
    pub fn put_documents(mut self, changes: Vec<DocumentChange>, by: &str) -> Planned<'a> {
        if changes.len() > CHANGES_AT_ONCE {
            let text = format!("{} documents at once: at most {CHANGES_AT_ONCE} are taken", changes.len());
            return Err(CatalogError::Invalid(text));
        }
        let catalog = self.catalog;
        let mut wanted: BTreeMap<DocumentKey, Document> = self.directory().documents.clone();
        for DocumentChange { key, from, body } in changes {
            let current = wanted.get(&key).map_or(DocumentVersion(0), |document| document.version);
            if current != from {
                return Err(CatalogError::Stale { what: key.to_string(), newest: current.0, claimed: from.0 });
            }
            if body.as_ref().is_some_and(|body| body.expose().len() > BODY_BYTES) {
                return Err(CatalogError::Invalid(format!("{key}: a document has at most {BODY_BYTES} bytes")));
            }
            if wanted.get(&key).and_then(|document| document.body.as_ref()) == body.as_ref() {
                continue;
            }
            let version = DocumentVersion(current.0 + 1);
            let document = Document { version, body, by: by.to_owned(), at_ms: self.now_ms };
            wanted.insert(key.clone(), document.clone());
            let old = catalog.document_history(&key).rev().skip(VERSIONS - 1);
            self.entries.extend(old.map(|(version, _)| Entry::Document(key.clone(), version, None)));
            self.push(Entry::Document(key, version, Some(document)));
        }
        if self.entries.is_empty() {
            return self.unchanged();
        }
        if wanted.len() > DOCUMENTS {
            return Err(CatalogError::Invalid(format!("there are more than {DOCUMENTS} documents")));
        }
        access::check(&wanted, self.warehouse()?, &self.directory().groups).map_err(CatalogError::Invalid)?;
        self.shown(Reply::Changed(true))
    }
}
