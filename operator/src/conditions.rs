//! Conditions, and the events that tell of their changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Event, EventType};

use crate::limits;

/// Something in the input, or around it, that keeps the operator from building.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// CamelCase.
    pub reason: &'static str,
    /// A sentence that names the field and says what to do.
    pub message: String,
}

impl Problem {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a condition says, without its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub type_: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Said {
    pub fn new(type_: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { type_, holds, reason, message: message.chars().take(limits::MESSAGE).collect() }
    }
}

/// The new conditions: what has not changed keeps its time.
pub fn renew(before: &[Condition], said: &[Said], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let renewed = said.iter().map(|said| {
        let status = if said.holds { "True" } else { "False" };
        let earlier = before.iter().find(|old| old.type_ == said.type_ && old.status == status);
        Condition {
            type_: said.type_.to_owned(),
            status: status.to_owned(),
            reason: said.reason.to_owned(),
            message: said.message.clone(),
            observed_generation: generation,
            last_transition_time: earlier.map_or(Time(now), |old| old.last_transition_time.clone()),
        }
    });
    renewed.collect()
}

/// One for each condition whose reason has changed.
pub fn events(before: &[Condition], now: &[Condition]) -> Vec<Event> {
    let is_news = |condition: &&Condition| {
        let old = before.iter().find(|old| old.type_ == condition.type_);
        // What has never been and is not, is no news.
        old.map_or(condition.status == "True" || condition.type_ == "Ready", |old| {
            old.reason != condition.reason || old.status != condition.status
        })
    };
    let event = |condition: &Condition| {
        let is_bad = match condition.type_.as_str() {
            "Degraded" => condition.status == "True",
            "Ready" | "Applied" => condition.status == "False" && !is_normal(&condition.reason),
            _ => false,
        };
        Event {
            type_: if is_bad { EventType::Warning } else { EventType::Normal },
            reason: condition.reason.clone(),
            note: Some(condition.message.chars().take(limits::NOTE).collect()),
            action: condition.type_.clone(),
            secondary: None,
        }
    };
    now.iter().filter(is_news).map(event).collect()
}

/// Reasons for not being ready that nobody needs to look into.
fn is_normal(reason: &str) -> bool {
    matches!(reason, "Suspended" | "Suspending" | "NodesStarting" | "ControllersStarting" | "ShardsUnassigned")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_changes_with_the_status_alone() {
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let starting = [Said::new("Ready", false, "NodesStarting", "0 of 2")];
        let first = renew(&[], &starting, Some(1), early);
        let more = renew(&first, &[Said::new("Ready", false, "NodesStarting", "1 of 2")], Some(1), late);
        assert_eq!(more[0].last_transition_time, Time(early));
        assert_eq!(more[0].message, "1 of 2");
        let ready = renew(&more, &[Said::new("Ready", true, "AllReady", "2 of 2")], Some(2), late);
        assert_eq!((ready[0].last_transition_time.clone(), ready[0].observed_generation), (Time(late), Some(2)));
    }

    #[test]
    fn news_are_told_once() {
        let said = [
            Said::new("Ready", false, "WarehouseNotFound", "spec.warehouse"),
            Said::new("Degraded", false, "AsExpected", ""),
        ];
        let first = renew(&[], &said, None, Timestamp::UNIX_EPOCH);
        let told = events(&[], &first);
        assert_eq!(told.len(), 1);
        assert!(matches!(told[0].type_, EventType::Warning));
        assert!(events(&first, &first).is_empty());
    }
}
