//! The certificates of a dev warehouse with TLS: an authority of its own, and one certificate for each process.

use std::time::{Duration, SystemTime};

use moorhouse_security::{CA_FILE, Lifetime, Material, RoleKind};

use crate::dev::plan::{CONTROLLER, GATEWAY};
use crate::dev::state::{ADMIN_USER, DevDir, DevState};
use crate::error::CtlError;
use crate::security::{init, issue};

/// The authority's directory, beside those of the holders.
pub const AUTHORITY: &str = "ca";
const WAREHOUSE: &str = "dev";
/// A certificate that ends sooner is issued anew at the next start.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Makes what `holder` (a process's name, or the administrator's) needs and does not have. Without TLS: nothing.
pub fn prepare(dir: &DevDir, state: &DevState, holder: &str) -> Result<(), CtlError> {
    if !state.settings.tls {
        return Ok(());
    }
    let ca = dir.certificates(AUTHORITY);
    if !ca.join(CA_FILE).exists() {
        init(&ca, WAREHOUSE)?;
    }
    let own = dir.certificates(holder);
    let lasts =
        |material: Material| material.expires.duration_since(SystemTime::now()).is_ok_and(|left| left > RENEW_BEFORE);
    if Material::read(&own).is_ok_and(lasts) {
        return Ok(());
    }
    let role = match holder {
        CONTROLLER => RoleKind::Controller,
        GATEWAY => RoleKind::Gateway,
        ADMIN_USER => RoleKind::Admin,
        _ => RoleKind::Agent,
    };
    issue(&ca, &own, role, holder, Lifetime::LEAF).map(drop)
}
