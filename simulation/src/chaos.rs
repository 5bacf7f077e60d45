//! What goes wrong, and when: a plan that follows from the seed.

use crate::chance::Chance;
use crate::store;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// From, to.
    Cut(String, String),
    Mend(String, String),
    Kill(String),
    Start(String),
    /// The process does not run for a while, and then goes on with what it believed.
    Stop(String),
    GoOn(String),
}

pub struct Chaos {
    chance: Chance,
    controllers: Vec<String>,
    agents: Vec<String>,
    /// Longest time between two faults: some runs are calmer, and more happens in them.
    pace_ms: u64,
    /// When the next fault is chosen; `None`: no more.
    next_ms: Option<u64>,
    /// In the order in which they were planned.
    planned: Vec<(u64, Fault)>,
}

impl Chaos {
    pub fn new(mut chance: Chance, controllers: &[&str], agents: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (controllers, agents) = (owned(controllers), owned(agents));
        let pace_ms = chance.between(400, 3_000);
        Self { chance, controllers, agents, pace_ms, next_ms: None, planned: Vec::new() }
    }

    pub fn begin(&mut self, now_ms: u64) {
        self.next_ms = Some(now_ms + self.chance.between(100, 1_000));
    }

    /// What is broken stays so: the caller mends it.
    pub fn end(&mut self) {
        self.next_ms = None;
        self.planned.clear();
    }

    /// A process has ended by itself, and its supervisor starts it again.
    pub fn restart_later(&mut self, name: &str, now_ms: u64) {
        let after = self.chance.between(50, 1_000);
        self.planned.push((now_ms + after, Fault::Start(name.to_owned())));
    }

    pub fn due(&mut self, now_ms: u64) -> Vec<Fault> {
        if self.next_ms.is_some_and(|next| next <= now_ms) {
            self.next_ms = Some(now_ms + self.chance.between(100, self.pace_ms));
            self.plan(now_ms);
        }
        let (due, later) = std::mem::take(&mut self.planned).into_iter().partition(|(at, _)| *at <= now_ms);
        self.planned = later;
        let due: Vec<(u64, Fault)> = due;
        due.into_iter().map(|(_, fault)| fault).collect()
    }

    fn plan(&mut self, now_ms: u64) {
        let end = now_ms + self.chance.between(50, 5_000);
        let someone = if self.chance.permille(500) { &self.controllers } else { &self.agents };
        let Some(name) = self.chance.pick(someone).cloned() else { return };
        match self.chance.below(10) {
            0..4 => {
                let mut others = [&self.controllers[..], &self.agents[..], &[store::HOST.to_owned()][..]].concat();
                others.retain(|other| *other != name);
                let Some(other) = self.chance.pick(&others).cloned() else { return };
                if self.chance.permille(700) {
                    self.now(now_ms, Fault::Cut(other.clone(), name.clone()));
                    self.planned.push((end, Fault::Mend(other.clone(), name.clone())));
                }
                self.now(now_ms, Fault::Cut(name.clone(), other.clone()));
                self.planned.push((end, Fault::Mend(name, other)));
            }
            4..6 => {
                self.now(now_ms, Fault::Kill(name.clone()));
                self.planned.push((end, Fault::Start(name)));
            }
            6..9 => {
                self.now(now_ms, Fault::Stop(name.clone()));
                self.planned.push((end, Fault::GoOn(name)));
            }
            _ => {
                // A second process of a name while the first is stopped and will go on.
                let between = now_ms + (end - now_ms) / 2;
                self.now(now_ms, Fault::Stop(name.clone()));
                self.planned.push((between, Fault::Start(name.clone())));
                self.planned.push((end, Fault::GoOn(name)));
            }
        }
    }

    fn now(&mut self, now_ms: u64, fault: Fault) {
        self.planned.push((now_ms, fault));
    }
}
