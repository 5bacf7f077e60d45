//! What a warehouse's status says.

use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::conditions::{Problem, Said, renew};
use crate::context::Context;
use crate::controller::ControllerError;
use crate::crd::{Warehouse, WarehouseStatus};
use crate::error::OperatorError;
use crate::warehouse::build::controller_url;
use crate::warehouse::dereference::Seen;

pub struct Report {
    pub is_ready: bool,
    said: [Said; 3],
}

fn report_of(ready: Said, progressing: Said, degraded: Said) -> Report {
    Report { is_ready: ready.holds, said: [ready, progressing, degraded] }
}

fn nothing_degraded() -> Said {
    Said::new("Degraded", false, "AsExpected", "")
}

/// Nothing was built, or changed.
pub fn refused(problem: &Problem) -> Report {
    report_of(
        Said::new("Ready", false, problem.reason, &problem.message),
        Said::new("Progressing", false, problem.reason, "nothing is changed until this is corrected"),
        Said::new("Degraded", true, problem.reason, &problem.message),
    )
}

pub fn waiting_for_groups(groups: &[String]) -> Report {
    let message = format!("delete these compute groups first, which still use it: {}", groups.join(", "));
    report_of(
        Said::new("Ready", false, "Deleting", &message),
        Said::new("Progressing", true, "WaitingForGroups", &message),
        nothing_degraded(),
    )
}

pub fn report(warehouse: &Warehouse, seen: &Seen) -> Report {
    let wanted = warehouse.spec.controller.replicas;
    let up = controllers_ready(seen);
    match &seen.leader {
        Ok(_) if up >= wanted => report_of(
            Said::new("Ready", true, "ControllersReady", format!("{up} controllers are up, and one leads")),
            Said::new("Progressing", false, "Settled", ""),
            nothing_degraded(),
        ),
        Ok(_) => report_of(
            Said::new("Ready", true, "LeaderAnswers", format!("{up} of {wanted} controllers are up, and one leads")),
            Said::new("Progressing", true, "ControllersStarting", format!("{up} of {wanted} controllers are up")),
            nothing_degraded(),
        ),
        // In what way it is silent may change from one attempt to the next, and is not worth an update of the status.
        Err(ControllerError::Silent(_)) => report_of(
            Said::new(
                "Ready",
                false,
                "ControllersStarting",
                format!("{up} of {wanted} controllers are up; none leads yet"),
            ),
            Said::new("Progressing", true, "ControllersStarting", format!("{up} of {wanted} controllers are up")),
            nothing_degraded(),
        ),
        Err(ControllerError::Refused(why)) => report_of(
            Said::new("Ready", false, "ControllerRefused", why),
            Said::new("Progressing", false, "ControllerRefused", why),
            Said::new("Degraded", true, "ControllerRefused", why),
        ),
    }
}

fn controllers_ready(seen: &Seen) -> i32 {
    let status = seen.controllers.as_ref().and_then(|set| set.status.as_ref());
    status.and_then(|status| status.ready_replicas).unwrap_or(0)
}

pub async fn write(
    warehouse: &Warehouse,
    seen: &Seen,
    report: Report,
    context: &Context,
    now: Timestamp,
) -> Result<(), OperatorError> {
    let before = warehouse.status.clone().unwrap_or_default();
    let generation = warehouse.meta().generation;
    let status = WarehouseStatus {
        observed_generation: generation,
        controllers_ready: controllers_ready(seen),
        controller_url: Some(controller_url(warehouse, &seen.namespace)),
        conditions: renew(&before.conditions, &report.said, generation, now),
    };
    context.tell(warehouse, &before.conditions, &status.conditions).await;
    if status != before {
        context.write_status::<Warehouse, _>(&seen.namespace, &warehouse.name_any(), &status).await?;
    }
    Ok(())
}
