//! What all stages stand on: one Garage, a proxy for each who uses it, one engine for the rivals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use moorhouse_objects::{Objects, ObjectsUrl, S3Credentials};
use moorhouse_tests::servers::{BUCKET, Garage, REGION};

use super::machine::blocking;
use super::scale::Scale;
use crate::contender::Contender;
use crate::error::BenchError;
use crate::proxy::DelayProxy;
use crate::rivals::{Rivals, S3Access};
use crate::warehouse::{Shape, Warehouse};

const S3_PREFIX: &str = "s3-disk";
const S3_CACHE_PREFIX: &str = "s3-cache-disk";

pub struct Ground {
    // Dropped in this order.
    pub rivals: Rivals,
    moorhouse: DelayProxy,
    s3: DelayProxy,
    s3_cache: DelayProxy,
    garage: Garage,
    scratch: PathBuf,
}

impl Ground {
    /// Empties `scratch`.
    pub async fn prepare(scratch: &Path, scale: &Scale) -> Result<Self, BenchError> {
        let scratch = std::path::absolute(scratch).map_err(BenchError::io("cannot place the scratch directory"))?;
        remove_dir(scratch.clone()).await?;
        std::fs::create_dir_all(&scratch).map_err(BenchError::io(format!("cannot make {}", scratch.display())))?;
        // It panics, with the reason, where there is no Garage.
        let garage = blocking(|| Ok(Garage::start())).await?;
        let [moorhouse, s3, s3_cache] = [
            DelayProxy::start(garage.s3_port()).await?,
            DelayProxy::start(garage.s3_port()).await?,
            DelayProxy::start(garage.s3_port()).await?,
        ];
        let [(_, access_key), (_, secret_key)] = garage.credentials();
        let access = |proxy: &DelayProxy, prefix: &str| S3Access {
            endpoint: format!("http://127.0.0.1:{}/{BUCKET}/{prefix}/", proxy.port()),
            region: REGION,
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
        };
        let rivals = Rivals::start(
            &scratch.join("rivals"),
            access(&s3, S3_PREFIX),
            access(&s3_cache, S3_CACHE_PREFIX),
            scale.cache_bytes,
        )
        .await?;
        Ok(Self { rivals, moorhouse, s3, s3_cache, garage, scratch })
    }

    /// A warehouse whose objects have a prefix of their own.
    pub async fn warehouse(
        &self,
        name: &str,
        readers: bool,
        settle: Duration,
        scale: &Scale,
    ) -> Result<Warehouse, BenchError> {
        let shape = Shape {
            readers,
            settle,
            cache_bytes: scale.cache_bytes,
            objects_url: Garage::objects_url_at(self.moorhouse.port(), name),
            credentials: &self.garage.credentials(),
        };
        Warehouse::start(&self.scratch.join(name), &shape).await
    }

    /// The way of a contender to the object store; of those without one, Moorhouse's.
    pub fn proxy(&self, who: Contender) -> &DelayProxy {
        match who {
            Contender::S3 => &self.s3,
            Contender::S3Cache => &self.s3_cache,
            Contender::Moorhouse | Contender::Local | Contender::LocalFsync => &self.moorhouse,
        }
    }

    pub fn set_delay(&self, delay: Duration) {
        for proxy in [&self.moorhouse, &self.s3, &self.s3_cache] {
            proxy.set_delay(delay);
        }
    }

    /// Objects of the warehouse with this name.
    pub async fn count_objects(&self, name: &str) -> Result<u64, BenchError> {
        self.count_below(name).await
    }

    /// Objects of the `s3` disk.
    pub async fn count_s3_objects(&self) -> Result<u64, BenchError> {
        self.count_below(S3_PREFIX).await
    }

    async fn count_below(&self, prefix: &str) -> Result<u64, BenchError> {
        let unexpected =
            |error: &dyn std::fmt::Display| BenchError::Unexpected(format!("cannot list objects: {error}"));
        let url: ObjectsUrl = self.garage.objects_url(prefix).parse().map_err(|error| unexpected(&error))?;
        let [(_, access_key), (_, secret_key)] = self.garage.credentials();
        let credentials =
            S3Credentials { access_key_id: access_key.to_owned(), secret_access_key: secret_key.to_owned() };
        let objects = Objects::open_with_credentials(&url, credentials).await.map_err(|error| unexpected(&error))?;
        let found = objects.list("").await.map_err(|error| unexpected(&error))?;
        Ok(found.len() as u64)
    }

    /// Stops everything and removes the scratch directory.
    pub async fn clear_away(self) {
        let Self { rivals, moorhouse, s3, s3_cache, garage, scratch } = self;
        if let Err(error) = rivals.stop().await {
            eprintln!("moorhouse-bench: {error}");
        }
        drop((moorhouse, s3, s3_cache, garage));
        if let Err(error) = remove_dir(scratch).await {
            eprintln!("moorhouse-bench: {error}");
        }
    }
}

async fn remove_dir(dir: PathBuf) -> Result<(), BenchError> {
    blocking(move || match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BenchError::io(format!("cannot remove {}", dir.display()))(error))
        }
        _ => Ok(()),
    })
    .await
}
