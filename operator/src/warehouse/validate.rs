//! What the schema cannot see: whether what a warehouse refers to is there, and of the right form. Pure.

use k8s_openapi::api::core::v1::Secret;

use crate::conditions::Problem;
use crate::crd::Warehouse;
use crate::warehouse::dereference::Seen;

pub fn validate(warehouse: &Warehouse, seen: &Seen) -> Result<(), Problem> {
    let spec = &warehouse.spec;
    admin(&spec.admin.secret, seen.admin.as_ref())?;
    if let (Some(name), Some(found)) = (&spec.objects.credentials_secret, &seen.credentials) {
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        has_keys("spec.objects.credentialsSecret", name, found.as_ref(), &keys)?;
    }
    if let (Some(name), Some(None)) = (&spec.objects.service_account_name, &seen.service_account) {
        let message =
            format!("spec.objects.serviceAccountName: there is no service account '{name}' in this namespace");
        return Err(Problem::new("ServiceAccountNotFound", message));
    }
    if let (Some(name), Some(found)) = (&spec.gateway.tls_secret, &seen.tls) {
        has_keys("spec.gateway.tlsSecret", name, found.as_ref(), &["tls.crt", "tls.key"])?;
    }
    shards(warehouse, seen)
}

fn admin(name: &str, found: Option<&Secret>) -> Result<(), Problem> {
    const FIELD: &str = "spec.admin.secret";
    let secret = has_keys(FIELD, name, found, &["username", "passwordSha256"])?;
    let user = text(secret, "username");
    let is_name = |user: &str| {
        user.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && user.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && user != "default"
            && !user.starts_with("moorhouse")
    };
    if !is_name(user) {
        let message = format!(
            "{FIELD}: the username in secret '{name}' must be letters, digits and '_', not default and not moorhouse…"
        );
        return Err(Problem::new("SecretInvalid", message));
    }
    let hash = text(secret, "passwordSha256");
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        let message = format!(
            "{FIELD}: passwordSha256 in secret '{name}' must be 64 hex digits without a line end: \
             printf %s PASSWORD | sha256sum"
        );
        return Err(Problem::new("SecretInvalid", message));
    }
    Ok(())
}

fn has_keys<'a>(field: &str, name: &str, found: Option<&'a Secret>, keys: &[&str]) -> Result<&'a Secret, Problem> {
    let Some(secret) = found else {
        return Err(Problem::new("SecretNotFound", format!("{field}: there is no secret '{name}' in this namespace")));
    };
    let missing: Vec<&str> = keys.iter().copied().filter(|key| text(secret, key).is_empty()).collect();
    if missing.is_empty() {
        return Ok(secret);
    }
    Err(Problem::new("SecretInvalid", format!("{field}: secret '{name}' lacks {}", missing.join(" and "))))
}

/// Empty if it is not there, or no text.
fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
}

/// The metadata may be an older warehouse's, with another number.
fn shards(warehouse: &Warehouse, seen: &Seen) -> Result<(), Problem> {
    match seen.leader {
        Ok(shards) if i64::from(shards) != i64::from(warehouse.spec.shards) => {
            let message = format!(
                "spec.shards: the warehouse at this etcd prefix was made with {shards} shards, and this says {}: \
                 name another spec.metadata.etcd.prefix, or make the Warehouse anew with {shards}",
                warehouse.spec.shards
            );
            Err(Problem::new("ShardsDiffer", message))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}
