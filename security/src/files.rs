//! The certificate directory of a process, followed: whatever lies there is used for the next connection.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moorhouse_base::tasks::TaskGroup;
use tokio::sync::watch;

use crate::material::{Material, MaterialError};
use crate::{limits, metrics};

/// What a process shows of itself and whom it trusts, as of the newest good reading. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    dir: Arc<PathBuf>,
    current: watch::Receiver<Arc<Material>>,
}

impl Credentials {
    /// Reads `dir`, and goes on reading it as one of `tasks`.
    ///
    /// # Errors
    /// When it cannot be used as it is now. Later, what cannot be used is logged, and the last good reading stays.
    pub fn open(dir: &Path, tasks: &TaskGroup) -> Result<Self, MaterialError> {
        let material = Arc::new(Material::read(dir)?);
        announce(&material);
        let (sender, current) = watch::channel(Arc::clone(&material));
        let dir = Arc::new(dir.to_owned());
        tasks.spawn("certificates", follow(Arc::clone(&dir), sender, material.digest));
        Ok(Self { dir, current })
    }

    /// Without following: for a process that ends soon.
    pub fn once(dir: &Path) -> Result<Self, MaterialError> {
        let material = Arc::new(Material::read(dir)?);
        let (_, current) = watch::channel(material);
        Ok(Self { dir: Arc::new(dir.to_owned()), current })
    }

    pub fn current(&self) -> Arc<Material> {
        Arc::clone(&self.current.borrow())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// By content, not by time stamps: a Kubernetes secret changes by way of links, and copies may keep their times.
async fn follow(dir: Arc<PathBuf>, current: watch::Sender<Arc<Material>>, mut seen: [u8; 32]) {
    let mut looks = tokio::time::interval(limits::LOOK_AT_FILES);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut warned: Option<Instant> = None;
    loop {
        looks.tick().await;
        // While the files are being exchanged one may be missing for a moment: the next look settles it.
        if let Ok(digest) = Material::digest_of(&dir)
            && digest != seen
        {
            seen = digest;
            match Material::read(&dir) {
                Ok(material) => take(material, &current),
                Err(error) => {
                    metrics::RELOADS.with_label_values(&["refused"]).inc();
                    tracing::error!(%error, "the changed certificate files cannot be used: the last good ones stay in use");
                }
            }
            warned = None;
        }
        let expires = current.borrow().expires;
        if warned.is_none_or(|at| at.elapsed() > limits::WARN_AGAIN) && is_near(expires, limits::WARN_BEFORE) {
            warned = Some(Instant::now());
            tracing::warn!(dir = %dir.display(), days = days_left(expires), "the certificate ends soon: renew it");
        }
    }
}

fn take(material: Material, current: &watch::Sender<Arc<Material>>) {
    let before = current.borrow().identity.clone();
    if material.identity != before {
        metrics::RELOADS.with_label_values(&["refused"]).inc();
        tracing::error!(%before, now = %material.identity, "the new certificate is somebody else's: the old one stays in use");
        return;
    }
    metrics::RELOADS.with_label_values(&["taken"]).inc();
    tracing::info!(identity = %material.identity, days = days_left(material.expires), "new certificate in use");
    announce(&material);
    current.send_replace(Arc::new(material));
}

fn announce(material: &Material) {
    let seconds = material.expires.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    metrics::CERTIFICATE_EXPIRES.set(i64::try_from(seconds).unwrap_or(i64::MAX));
}

fn is_near(expires: SystemTime, within: Duration) -> bool {
    expires.duration_since(SystemTime::now()).is_ok_and(|left| left < within) || expires <= SystemTime::now()
}

/// Whole days; 0 if it is over.
fn days_left(expires: SystemTime) -> u64 {
    expires.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / 86_400)
}

/// Writes a file that only its owner may read: beside its place, then renamed, so that no reader sees half of it.
pub fn write_private(path: &Path, content: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
