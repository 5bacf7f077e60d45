//! [`ObjectsUrl`]: the `--objects` flag. Parsing reports every mistake at once, each with what to write instead.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

/// Where a warehouse's objects are.
///
/// * `file:///absolute/dir`: a directory of this machine, created if absent.
/// * `s3://bucket/prefix?endpoint=http://host:port&region=NAME&allow_http=true`: an S3 bucket, addressed path-style. All
///   parameters are optional; without `endpoint` it is Amazon's own for the region. Plain `http://` must be asked for by
///   name with `allow_http=true`.
///
/// Holds no secrets: credentials come from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. `Display` writes a URL that
/// parses to the same value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectsUrl(pub(crate) Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Directory(PathBuf),
    Bucket(Bucket),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bucket {
    pub name: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub allow_http: bool,
}

/// Every mistake of an objects URL, each with its remedy. Never repeats the URL, which might hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad objects URL: {}", .0.join("; "))]
pub struct BadObjectsUrl(pub Vec<String>);

impl FromStr for ObjectsUrl {
    type Err = BadObjectsUrl;

    fn from_str(text: &str) -> Result<Self, BadObjectsUrl> {
        let url = Url::parse(text).map_err(|error| {
            BadObjectsUrl(vec![format!(
                "{error}; write file:///absolute/dir or s3://bucket/prefix?endpoint=http://host:port"
            )])
        })?;
        match url.scheme() {
            "file" => parse_directory(&url),
            "s3" => parse_bucket(&url),
            other => Err(BadObjectsUrl(vec![format!("the scheme {other}:// is not supported; use file:// or s3://")])),
        }
    }
}

impl fmt::Display for ObjectsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Directory(path) => match Url::from_directory_path(path) {
                Ok(url) => f.write_str(url.as_str().trim_end_matches('/')),
                Err(()) => write!(f, "file://{}", path.display()),
            },
            Place::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.name)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        // Neither holds a character that means something in a query: parsing refused those.
        let endpoint = self.endpoint.iter().map(|endpoint| format!("endpoint={endpoint}"));
        let region = self.region.iter().map(|region| format!("region={region}"));
        let allow_http = self.allow_http.then(|| "allow_http=true".to_owned());
        let query = endpoint.chain(region).chain(allow_http).collect::<Vec<_>>().join("&");
        if query.is_empty() { Ok(()) } else { write!(f, "?{query}") }
    }
}

fn parse_directory(url: &Url) -> Result<ObjectsUrl, BadObjectsUrl> {
    let mut mistakes = Vec::new();
    if url.query().is_some() {
        mistakes.push("file:// takes no ?parameters; remove them".to_owned());
    }
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        mistakes.push("file:// needs an absolute path; write three slashes: file:///dir".to_owned());
    }
    match url.to_file_path() {
        Ok(path) if mistakes.is_empty() => return Ok(ObjectsUrl(Place::Directory(path))),
        Err(()) if mistakes.is_empty() => mistakes.push("not an absolute path; write file:///dir".to_owned()),
        _ => {}
    }
    Err(BadObjectsUrl(mistakes))
}

fn parse_bucket(url: &Url) -> Result<ObjectsUrl, BadObjectsUrl> {
    let mut mistakes = Vec::new();
    if !url.username().is_empty() || url.password().is_some() {
        mistakes.push("no credentials in the URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned());
    }
    let name = url.host_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        mistakes.push("no bucket; write s3://bucket/prefix".to_owned());
    }
    if url.port().is_some() {
        mistakes.push("a bucket has no port; give the server as ?endpoint=http://host:port".to_owned());
    }
    let prefix = url.path().trim_matches('/').to_owned();
    if !prefix.is_empty() && prefix.split('/').any(|segment| segment.is_empty() || !segment.bytes().all(is_plain)) {
        mistakes.push("the prefix may hold only letters, digits, and - _ . between single slashes".to_owned());
    }
    let mut bucket = Bucket { name, prefix, endpoint: None, region: None, allow_http: false };
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            "endpoint" => bucket.endpoint = Some(value.trim_end_matches('/').to_owned()),
            "region" => bucket.region = Some(value.into_owned()),
            "allow_http" => match value.parse() {
                Ok(allowed) => bucket.allow_http = allowed,
                Err(_) => mistakes.push("allow_http must be true or false".to_owned()),
            },
            _ => mistakes.push("unknown parameter; known are endpoint, region, allow_http".to_owned()),
        }
    }
    if bucket.region.as_ref().is_some_and(|region| !region.bytes().all(is_plain)) {
        mistakes.push("the region may hold only letters, digits, and - _ .".to_owned());
    }
    mistakes.extend(endpoint_mistake(&bucket));
    if mistakes.is_empty() { Ok(ObjectsUrl(Place::Bucket(bucket))) } else { Err(BadObjectsUrl(mistakes)) }
}

fn endpoint_mistake(bucket: &Bucket) -> Option<String> {
    let text = bucket.endpoint.as_ref()?;
    let endpoint = match Url::parse(text) {
        Ok(endpoint) if endpoint.has_host() && !text.contains(['?', '#', '&', '%', '+', ' ']) => endpoint,
        _ => return Some("endpoint is not a URL; write endpoint=https://host:port".to_owned()),
    };
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Some("no credentials in the endpoint; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned());
    }
    match endpoint.scheme() {
        "https" => None,
        "http" if bucket.allow_http => None,
        "http" => Some("the endpoint is not encrypted; use https:// or add &allow_http=true".to_owned()),
        _ => Some("the endpoint must be http:// or https://".to_owned()),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parses_is_displayed_so_that_it_parses_to_the_same() {
        for text in [
            "file:///srv/moorhouse",
            "file:///srv/with%20space",
            "s3://bucket",
            "s3://bucket/some/prefix",
            "s3://bucket/p?endpoint=http://127.0.0.1:3900&region=garage&allow_http=true",
        ] {
            let url: ObjectsUrl = text.parse().expect(text);
            assert_eq!(url.to_string().parse::<ObjectsUrl>().expect("parses again"), url);
        }
    }

    #[test]
    fn all_mistakes_come_at_once_and_no_secret_is_repeated() {
        let BadObjectsUrl(mistakes) = "s3://key:hunter2@bucket/a//b?endpoint=http://h:1&allow_htp=1&allow_http=ja"
            .parse::<ObjectsUrl>()
            .expect_err("is wrong in many ways");
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        assert!(!mistakes.join(" ").contains("hunter2"));
    }

    #[test]
    fn each_mistake_names_its_remedy() {
        for (text, remedy) in [
            ("/srv/moorhouse", "file:///"),
            ("gs://bucket", "s3://"),
            ("file://relative/dir", "three slashes"),
            ("s3:///prefix", "s3://bucket"),
            ("s3://bucket?endpoint=localhost", "endpoint=https://"),
            ("s3://bucket?endpoint=http://h", "allow_http=true"),
            ("s3://bucket?endpoint=http://u:p@h&allow_http=true", "AWS_ACCESS_KEY_ID"),
        ] {
            let error = text.parse::<ObjectsUrl>().expect_err(text).to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }
}
