//! One run: a warehouse of simulated processes, a time of faults, a time of peace, and then everything must be in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use futures::FutureExt;
use moorhouse_base::clock::Clock;
use moorhouse_catalog::state::{Catalog, Limits};
use moorhouse_catalog::{GroupName, Location, NodeName, invariants};
use moorhouse_controller::agents::Agents;
use moorhouse_controller::config::{Args, Config};
use moorhouse_controller::server::{self, Ground};
use moorhouse_objects::Objects;

use crate::agent::{self, Disks, Surroundings};
use crate::chance::Chance;
use crate::chaos::{Chaos, Fault};
use crate::history::Violation;
use crate::network::{Network, Weather};
use crate::observer::Observer;
use crate::process::Process;
use crate::store::SimStore;
use crate::user;

/// How finely processes take turns.
const STEP: Duration = Duration::from_millis(10);
/// Faults happen for so long.
const STORM_MS: u64 = 15_000;
/// After the last fault everything must have come to rest by then: DDL waits 60 s for nodes, moves may try for some seconds.
const PEACE_MS: u64 = 150_000;
/// Writers go on for so long after the last fault.
const CALM_MS: u64 = 3_000;
/// Between two looks at whether all is at rest, and two checks of the whole store.
const LOOK_MS: u64 = 500;
const GRACE_MS: u64 = 6_000;
const CONTROLLERS: [&str; 3] = ["c0", "c1", "c2"];
const WRITERS: [&str; 3] = ["w0", "w1", "w2"];
const READERS: [&str; 1] = ["r0"];

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// Equal for equal runs.
    pub hash: u64,
    pub events: u64,
    pub commits: usize,
    pub last_events: Vec<String>,
}

/// The time of the whole simulation; processes that were stopped find it advanced.
struct WorldClock {
    now_ms: Arc<AtomicU64>,
    /// This machine's clock goes ahead by so much.
    ahead_ms: u64,
}

impl Clock for WorldClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed) + self.ahead_ms
    }
}

struct World {
    now_ms: Arc<AtomicU64>,
    chance: Chance,
    store: SimStore,
    around: Surroundings,
    processes: BTreeMap<String, Process>,
    /// Processes that nobody minds any more: they may still run.
    zombies: Vec<Process>,
    chaos: Chaos,
}

/// The run of a seed. To be called once in a process: [`crate::entropy::seed`] comes first.
pub fn run(seed: u64) -> std::io::Result<Outcome> {
    let mut world = World::new(seed);
    world.begin()?;
    world.pass(STORM_MS)?;
    world.calm()?;
    world.pass(CALM_MS)?;
    world.around.quiet.store(true, Ordering::Relaxed);
    let deadline = world.now() + PEACE_MS;
    while world.around.observer.violation().is_none() {
        world.pass(LOOK_MS)?;
        match world.at_rest() {
            Ok(()) => break,
            Err(what) if world.now() >= deadline => world.around.observer.break_rule("it_comes_to_rest", what),
            Err(_) => {}
        }
    }
    world.check_bytes();
    let observer = &world.around.observer;
    observer.finish();
    Ok(Outcome {
        seed,
        violation: observer.violation(),
        hash: observer.hash(),
        events: observer.events(),
        commits: observer.check(|checker| checker.acknowledged_commits()),
        last_events: observer.last_events(),
    })
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a valid name")
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a valid name")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let observer = Observer::new(GRACE_MS);
        let around = Surroundings {
            network: Network::new(chance.fork()),
            observer: observer.clone(),
            disks: Disks::default(),
            objects: Objects::in_memory(),
            controllers: CONTROLLERS.map(str::to_owned).to_vec(),
            quiet: Arc::new(AtomicBool::new(false)),
        };
        let chaos = Chaos::new(chance.fork(), &CONTROLLERS, &[&WRITERS[..], &READERS[..]].concat());
        Self {
            now_ms: Arc::new(AtomicU64::new(0)),
            store: SimStore::new(chance.fork(), observer),
            around,
            processes: BTreeMap::new(),
            zombies: Vec::new(),
            chaos,
            chance,
        }
    }

    fn now(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// A quiet start with two writers, so that every run has something to lose.
    fn begin(&mut self) -> std::io::Result<()> {
        for name in CONTROLLERS {
            self.start(name)?;
        }
        self.start(WRITERS[0])?;
        self.start(WRITERS[1])?;
        self.start(READERS[0])?;
        let (around, chance) = (self.around.clone(), self.chance.fork());
        let name = "user".to_owned();
        self.add("user", Box::pin(user::run(name, group("etl"), around, chance)))?;
        if self.chance.permille(300) {
            let (after, around) = (Duration::from_millis(self.chance.between(2_000, 12_000)), self.around.clone());
            let leaves = self.chance.pick(&WRITERS).copied().unwrap_or(WRITERS[0]);
            self.add("operator", Box::pin(user::drain(node(leaves), after, around)))?;
        }
        self.pass(3_000)?;
        let weather =
            Weather { lost: self.chance.below(30), doubled: self.chance.below(60), slow: self.chance.below(60) };
        self.around.network.set_weather(weather);
        self.store.set_unanswered(self.chance.below(60));
        self.chaos.begin(self.now());
        Ok(())
    }

    fn add(&mut self, name: &str, main: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> std::io::Result<()> {
        let process = Process::start(name, main)?;
        if let Some(before) = self.processes.insert(name.to_owned(), process) {
            // Still there, stopped: it finds a new process of its name when it goes on.
            self.zombies.push(before);
        }
        Ok(())
    }

    fn start(&mut self, name: &str) -> std::io::Result<()> {
        self.around.observer.note(&format!("{name} starts"));
        let (around, chance) = (self.around.clone(), self.chance.fork());
        if CONTROLLERS.contains(&name) {
            let clock = WorldClock { now_ms: Arc::clone(&self.now_ms), ahead_ms: 1_000_000 + self.chance.below(200) };
            let main = control(name.to_owned(), around, self.store.clone(), clock);
            return self.add(name, Box::pin(main));
        }
        let writes = WRITERS.contains(&name);
        let of = group(if writes { "etl" } else { "bi" });
        self.add(name, Box::pin(agent::run(node(name), of, writes, around, chance)))
    }

    fn kill(&mut self, name: &str) {
        self.around.observer.note(&format!("{name} is killed"));
        self.around.network.leave(name);
        self.processes.remove(name);
    }

    /// Lets time pass, until a rule is broken.
    fn pass(&mut self, ms: u64) -> std::io::Result<()> {
        let end = self.now() + ms;
        while self.now() < end && self.around.observer.violation().is_none() {
            let now = self.now() + STEP.as_millis() as u64;
            self.now_ms.store(now, Ordering::Relaxed);
            self.around.observer.set_time(now);
            self.store.step(now);
            for process in self.processes.values_mut().chain(&mut self.zombies) {
                process.step(STEP);
            }
            self.bury(now);
            for fault in self.chaos.due(now) {
                self.commit_fault(fault)?;
            }
            if now.is_multiple_of(LOOK_MS) {
                self.check_store();
            }
        }
        Ok(())
    }

    /// A process that has ended by itself is started again, unless another has its name already.
    fn bury(&mut self, now: u64) {
        self.zombies.retain(|process| !process.has_ended());
        let ended = self.processes.values().filter(|process| process.has_ended());
        for name in ended.map(|process| process.name.clone()).collect::<Vec<_>>() {
            self.kill(&name);
            self.chaos.restart_later(&name, now);
        }
    }

    fn commit_fault(&mut self, fault: Fault) -> std::io::Result<()> {
        self.around.observer.note(&format!("fault: {fault:?}"));
        match fault {
            Fault::Cut(from, to) => self.around.network.cut(&from, &to),
            Fault::Mend(from, to) => self.around.network.mend(&from, &to),
            Fault::Kill(name) => self.kill(&name),
            Fault::Start(name) => self.start(&name)?,
            Fault::Stop(name) => {
                if let Some(process) = self.processes.get_mut(&name) {
                    process.stop();
                }
            }
            Fault::GoOn(name) => {
                let all = self.processes.values_mut().chain(&mut self.zombies);
                all.filter(|process| process.name == name && process.is_stopped()).for_each(Process::go_on);
            }
        }
        Ok(())
    }

    /// Peace: everybody is there, runs, and is heard.
    fn calm(&mut self) -> std::io::Result<()> {
        self.around.observer.note("peace");
        self.around.network.set_weather(Weather::FAIR);
        self.around.network.mend_all();
        self.store.set_unanswered(0);
        self.chaos.end();
        self.processes.values_mut().chain(&mut self.zombies).filter(|p| p.is_stopped()).for_each(Process::go_on);
        for name in CONTROLLERS.iter().chain(&WRITERS).chain(&READERS) {
            if !self.processes.contains_key(*name) {
                self.start(name)?;
            }
        }
        Ok(())
    }

    /// The whole store, as a new leader would read it.
    fn check_store(&self) {
        let records = self.store.records();
        let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        let observer = &self.around.observer;
        match Catalog::load(Limits::default(), records) {
            Ok(catalog) => {
                if let Err(violation) = invariants::check_all(&catalog) {
                    observer.break_rule(violation.invariant, violation.detail);
                }
            }
            Err(error) => observer.break_rule("a_leader_can_load_the_store", error.to_string()),
        }
        let Some(Ok(objects)) = self.around.objects.list("").now_or_never() else { return };
        let there: std::collections::BTreeSet<String> = objects.into_iter().map(|(key, _)| key).collect();
        observer
            .check(|checker| {
                let files = checker.stored().flat_map(|(at, part)| part.files.iter().map(move |file| (at, part, file)));
                for (at, part, file) in files {
                    if let Location::Stored { object, .. } = &file.location
                        && !there.contains(object.as_str())
                    {
                        return Some(format!("{at}: {} of {} is in {object}", file.path, part.part));
                    }
                }
                None
            })
            .into_iter()
            .for_each(|lost| observer.break_rule("a_referenced_object_is_not_deleted", lost));
    }

    /// Staged bytes are where the catalog says.
    fn check_bytes(&self) {
        self.check_store();
        let disks = &self.around.disks;
        let lost = self.around.observer.check(|checker| {
            let files = checker.stored().flat_map(|(at, part)| part.files.iter().map(move |file| (at, part, file)));
            let mut lost = files.filter(
                |(_, _, file)| matches!(&file.location, Location::Staged { node } if !disks.has(node, file.blob)),
            );
            lost.next().map(|(at, part, file)| format!("{at}: {} of {}: {:?}", file.path, part.part, file.location))
        });
        if let Some(lost) = lost {
            self.around.observer.break_rule("staged_bytes_are_where_the_catalog_says", lost);
        }
    }

    /// Or what is still going on.
    fn at_rest(&self) -> Result<(), String> {
        self.around.observer.check(|checker| checker.at_rest(&READERS.map(node)))
    }
}

/// The main of a controller: as the product's own, but for the sockets.
async fn control(name: String, around: Surroundings, store: SimStore, clock: WorldClock) {
    let (network, from) = (around.network.clone(), name.clone());
    let ground = Ground {
        store: Arc::new(store.connect(&name, &around.network)),
        clock: Arc::new(clock),
        objects: around.objects.clone(),
        agents: Agents::new(Box::new(move |node| Ok(network.channel(&from, &node.agent_address)))),
        issuer: None,
    };
    let ended = match server::lead(&config(), ground).await {
        Ok(mut leading) => {
            let routes = leading.routes.clone();
            around.observer.note(&format!("{name} leads"));
            tokio::select! {
                biased;
                end = leading.ended() => end.to_string(),
                () = around.network.serve(&name, routes) => "its network has ended".to_owned(),
            }
        }
        Err(error) => error.to_string(),
    };
    around.observer.note(&format!("{name} ends: {ended}"));
}

fn config() -> Config {
    let grace = (GRACE_MS + 500).to_string();
    let args = [
        "moorhouse-controller",
        "--store",
        "memory:",
        "--objects",
        "file:///simulated",
        "--shards",
        "3",
        "--group",
        "etl",
        "--group",
        "bi",
        "--lease-ttl-ms",
        "1500",
        "--delete-grace-ms",
        &grace,
    ];
    let args = Args::try_parse_from(args).expect("flags of the controller");
    let config = Config::check(args).expect("a valid configuration");
    // So little that part lists come and go all the time.
    Config { lists_bytes: 3_000, ..config }
}
