//! The only module that imports `object_store`: it opens the two kinds of place, and translates requests and errors.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientOptions, Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
};

use crate::error::ObjectsError;
use crate::url::{Bucket, ObjectsUrl, Place};

/// A connection that is not there after this is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One request with its body; 64 MiB in it is a link of 9 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// No new attempt starts later than this after the first. With the connect timeout, "unreachable" is told within 10 s.
const RETRY_FOR: Duration = Duration::from_secs(6);
const RETRIES_MAX: usize = 20;

/// Any of these in the environment says how to get credentials; without one, the S3 client would ask the cloud's
/// instance metadata address for minutes, so that case is an error at once.
const CREDENTIAL_SOURCES: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// A key pair for S3. Its `Debug` hides the secret.
#[derive(Clone)]
pub struct S3Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl std::fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

pub(crate) struct Door {
    store: Box<dyn ObjectStore>,
    /// The same place, for uploads that outlive their caller; a directory has none.
    pieces: Option<Box<dyn MultipartStore>>,
    /// The URL, for error messages.
    place: String,
    bucket: Option<String>,
}

/// What a put-if-absent found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    New,
    Existed,
}

/// An upload in pieces. Dropping it does not take the pieces away; [`Upload::abort`] does.
pub(crate) struct Upload<'door> {
    door: &'door Door,
    key: String,
    upload: Box<dyn MultipartUpload>,
}

impl Door {
    pub fn open_directory(path: &FilePath) -> Result<Self, ObjectsError> {
        let failed = |reason: String| ObjectsError::Directory { path: path.to_owned(), reason };
        std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
        // A put promises durability, as S3 does.
        let store = LocalFileSystem::new_with_prefix(path).map_err(|error| failed(error.to_string()))?.with_fsync(true);
        let place = ObjectsUrl(Place::Directory(path.to_owned())).to_string();
        Ok(Self { store: Box::new(store), pieces: None, place, bucket: None })
    }

    pub fn in_memory() -> Self {
        Self { store: Box::new(InMemory::new()), pieces: None, place: "memory:".to_owned(), bucket: None }
    }

    pub fn open_bucket(bucket: &Bucket, credentials: Option<S3Credentials>) -> Result<Self, ObjectsError> {
        let place = ObjectsUrl(Place::Bucket(bucket.clone())).to_string();
        let mut builder = match credentials {
            Some(given) => AmazonS3Builder::new()
                .with_access_key_id(given.access_key_id)
                .with_secret_access_key(given.secret_access_key),
            None if CREDENTIAL_SOURCES.iter().any(|name| std::env::var_os(name).is_some()) => {
                AmazonS3Builder::from_env()
            }
            None => return Err(ObjectsError::NoCredentials),
        };
        builder = builder
            .with_bucket_name(&bucket.name)
            .with_virtual_hosted_style_request(false)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_disable_bulk_delete(true)
            .with_retry(retry_config())
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(bucket.allow_http)
                    .with_connect_timeout(CONNECT_TIMEOUT)
                    .with_timeout(REQUEST_TIMEOUT),
            );
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &bucket.region {
            builder = builder.with_region(region);
        }
        let s3 = builder.build().map_err(|error| ObjectsError::Failed {
            place: place.clone(),
            op: "open",
            key: bucket.name.clone(),
            reason: one_line(&error),
        })?;
        let store = PrefixStore::new(s3, bucket.prefix.as_str());
        let pieces: Option<Box<dyn MultipartStore>> = Some(Box::new(store.clone()));
        Ok(Self { store: Box::new(store), pieces, place, bucket: Some(bucket.name.clone()) })
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    pub async fn put(&self, key: &str, body: Vec<Bytes>) -> Result<(), ObjectsError> {
        let payload = PutPayload::from_iter(body);
        self.store.put(&path(key)?, payload).await.map_err(|error| self.translate("put", key, &error))?;
        Ok(())
    }

    /// A store that ignores the condition answers `New` also where it replaced something: read back to be sure.
    pub async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<Created, ObjectsError> {
        match self.store.put_opts(&path(key)?, body.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(Created::New),
            Err(Error::AlreadyExists { .. }) => Ok(Created::Existed),
            Err(error) => Err(self.translate("put", key, &error)),
        }
    }

    pub async fn begin_upload(&self, key: &str) -> Result<Upload<'_>, ObjectsError> {
        let begun = self.store.put_multipart(&path(key)?).await;
        let upload = begun.map_err(|error| self.translate("put", key, &error))?;
        Ok(Upload { door: self, key: key.to_owned(), upload })
    }

    pub fn takes_pieces(&self) -> bool {
        self.pieces.is_some()
    }

    /// The store's name for the upload.
    pub async fn begin_pieces(&self, key: &str) -> Result<String, ObjectsError> {
        let begun = self.pieces()?.create_multipart(&path(key)?).await;
        begun.map_err(|error| self.translate("begin", key, &error))
    }

    /// The store's name for what it has got.
    pub async fn put_piece(
        &self,
        key: &str,
        upload: &str,
        index: usize,
        body: Vec<Bytes>,
    ) -> Result<String, ObjectsError> {
        let body = PutPayload::from_iter(body);
        let put = self.pieces()?.put_part(&path(key)?, &upload.to_owned(), index, body).await;
        let put = put.map_err(|error| self.translate("put a piece of", key, &error))?;
        Ok(put.content_id)
    }

    pub async fn complete_pieces(&self, key: &str, upload: &str, pieces: Vec<String>) -> Result<(), ObjectsError> {
        let pieces = pieces.into_iter().map(|content_id| PartId { content_id }).collect();
        let completed = self.pieces()?.complete_multipart(&path(key)?, &upload.to_owned(), pieces).await;
        completed.map(drop).map_err(|error| self.translate("complete", key, &error))
    }

    pub async fn abort_pieces(&self, key: &str, upload: &str) -> Result<(), ObjectsError> {
        let aborted = self.pieces()?.abort_multipart(&path(key)?, &upload.to_owned()).await;
        match aborted.map_err(|error| self.translate("abort", key, &error)) {
            Ok(()) | Err(ObjectsError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn pieces(&self) -> Result<&dyn MultipartStore, ObjectsError> {
        self.pieces.as_deref().ok_or_else(|| ObjectsError::Failed {
            place: self.place.clone(),
            op: "begin",
            key: String::new(),
            reason: "a directory takes objects whole".to_owned(),
        })
    }

    pub async fn get(&self, key: &str) -> Result<Bytes, ObjectsError> {
        let fetched = async { self.store.get(&path_in_store(key)?).await?.bytes().await };
        fetched.await.map_err(|error| self.translate("get", key, &error))
    }

    pub async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, ObjectsError> {
        let short = |found| ObjectsError::Short {
            place: self.place.clone(),
            key: key.to_owned(),
            offset,
            expected: len,
            found,
        };
        let end = offset.checked_add(len).ok_or_else(|| short(0))?;
        let location = path(key)?;
        let bytes = match self.store.get_range(&location, offset..end).await {
            Ok(bytes) => bytes,
            // A range that begins behind the end is an error of the request, told differently by each store: the size
            // decides what it was.
            Err(error) => match self.store.head(&location).await {
                Ok(meta) if meta.size <= offset => return Err(short(0)),
                _ => return Err(self.translate("get", key, &error)),
            },
        };
        let found = bytes.len() as u64;
        if found == len { Ok(bytes) } else { Err(short(found)) }
    }

    pub async fn delete(&self, key: &str) -> Result<(), ObjectsError> {
        match self.store.delete(&path(key)?).await.map_err(|error| self.translate("delete", key, &error)) {
            Ok(()) | Err(ObjectsError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, ObjectsError> {
        let below = if prefix.trim_matches('/').is_empty() { None } else { Some(path(prefix.trim_end_matches('/'))?) };
        let found = self.store.list(below.as_ref()).map_ok(|meta| (meta.location.to_string(), meta.size));
        found.try_collect().await.map_err(|error| self.translate("list", prefix, &error))
    }

    /// Up to `limit` keys and sizes behind `after` in the order of keys.
    pub async fn list_page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, ObjectsError> {
        let below = path(prefix)?;
        let found = match after {
            Some(after) => self.store.list_with_offset(Some(&below), &path(after)?),
            None => self.store.list(Some(&below)),
        };
        let mut found = found.map_ok(|meta| (meta.location.to_string(), meta.size));
        // A bucket lists in order, a directory in none.
        let listed = if self.bucket.is_some() {
            found.take(limit).try_collect().await
        } else {
            let mut first = std::collections::BinaryHeap::new();
            loop {
                match found.try_next().await {
                    Ok(Some(object)) => first.push(object),
                    Ok(None) => break Ok(first.into_sorted_vec()),
                    Err(error) => break Err(error),
                }
                if first.len() > limit {
                    first.pop();
                }
            }
        };
        listed.map_err(|error| self.translate("list", prefix, &error))
    }

    pub async fn size(&self, key: &str) -> Result<Option<u64>, ObjectsError> {
        match self.store.head(&path(key)?).await.map_err(|error| self.translate("look at", key, &error)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(ObjectsError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn translate(&self, op: &'static str, key: &str, error: &Error) -> ObjectsError {
        let place = self.place.clone();
        let key = key.to_owned();
        let reason = one_line(error);
        match (cause(error), &self.bucket) {
            (Cause::NoBucket, Some(bucket)) => ObjectsError::NoBucket { bucket: bucket.clone(), place },
            (Cause::Denied, _) => ObjectsError::Denied { place, op, key, reason },
            (Cause::Unreachable, _) => ObjectsError::Unreachable { place, reason: innermost(error) },
            (Cause::NotFound, _) => ObjectsError::NotFound { place, key },
            (Cause::NoBucket | Cause::Other, _) => ObjectsError::Failed { place, op, key, reason },
        }
    }
}

impl<'door> Upload<'door> {
    /// The piece's number is fixed by the order of these calls; the futures may then run in any order.
    pub fn put_piece(&mut self, piece: Vec<Bytes>) -> impl Future<Output = Result<(), ObjectsError>> + use<'door> {
        let send = self.upload.put_part(PutPayload::from_iter(piece));
        let (door, key) = (self.door, self.key.clone());
        async move { send.await.map_err(|error| door.translate("put a piece of", &key, &error)) }
    }

    pub async fn complete(&mut self) -> Result<(), ObjectsError> {
        let completed = self.upload.complete().await;
        completed.map(|_| ()).map_err(|error| self.door.translate("complete", &self.key, &error))
    }

    pub async fn abort(&mut self) -> Result<(), ObjectsError> {
        self.upload.abort().await.map_err(|error| self.door.translate("abort", &self.key, &error))
    }
}

fn retry_config() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_FOR,
    }
}

fn path(key: &str) -> Result<Path, ObjectsError> {
    let bad = |reason: String| ObjectsError::BadKey { key: key.to_owned(), reason };
    if key.is_empty() || key.starts_with('/') || key.ends_with('/') {
        return Err(bad("a key is not empty and has no slash at its ends".to_owned()));
    }
    path_in_store(key).map_err(|error| bad(one_line(&error)))
}

fn path_in_store(key: &str) -> Result<Path, Error> {
    Ok(Path::parse(key)?)
}

enum Cause {
    NoBucket,
    Denied,
    Unreachable,
    NotFound,
    Other,
}

fn cause(error: &Error) -> Cause {
    // S3's error code is part of its protocol, but the client keeps it only inside the text of its private error type.
    match s3_code(&chain(error)).as_deref() {
        Some("NoSuchBucket") => return Cause::NoBucket,
        Some("NoSuchUpload") => return Cause::NotFound,
        Some(
            "AccessDenied"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "AuthorizationHeaderMalformed"
            | "Forbidden",
        ) => return Cause::Denied,
        Some("InternalError" | "ServiceUnavailable" | "SlowDown") => return Cause::Unreachable,
        _ => {}
    }
    match error {
        Error::NotFound { .. } => return Cause::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => return Cause::Denied,
        _ => {}
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(inner) = next {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            match http.kind() {
                HttpErrorKind::Connect
                | HttpErrorKind::Timeout
                | HttpErrorKind::Interrupted
                | HttpErrorKind::Request => {
                    return Cause::Unreachable;
                }
                HttpErrorKind::Decode | HttpErrorKind::Unknown => {}
                _ => {}
            }
        }
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            match io.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => return Cause::Denied,
                ErrorKind::NotFound => return Cause::NotFound,
                _ => {}
            }
        }
        next = inner.source();
    }
    Cause::Other
}

fn s3_code(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    Some(code.to_owned())
}

/// The error and its sources; a source already told by its parent is left out.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = inner.source();
    }
    text
}

/// The root of a failed connection ("Connection refused"), without the layers that wrap it; or the server's own words.
fn innermost(error: &dyn StdError) -> String {
    if s3_code(&error.to_string()).is_some() {
        return one_line(error);
    }
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn one_line(error: &dyn StdError) -> String {
    let text = chain(error);
    let told = match (s3_code(&text), text.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>")))
    {
        (Some(code), Some((message, _))) => format!("{code}: {}", unescaped(message)),
        _ => text,
    };
    told.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unescaped(xml: &str) -> String {
    let plain = xml.replace("&apos;", "'").replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
    plain.replace("&amp;", "&")
}
