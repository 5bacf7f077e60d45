//! Scaling by kubectl, with a real controller: what it has not let go of stays.

use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::node::{MoorhouseController, Script, TestNode};
use crate::support::{Operator, Space, until};

const GROUP: (&str, &str) = ("computegroup", "etl");

/// The minimal example, up: two nodes that are on the controller's books.
struct Warehouse<'a> {
    // In the order in which they end.
    operator: Option<Operator>,
    nodes: Vec<TestNode>,
    controller: MoorhouseController,
    space: Space<'a>,
    _dir: TempDir,
}

impl<'a> Warehouse<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let space = Space::new(cluster);
        let dir = tempfile::tempdir().expect("a directory");
        let controller = MoorhouseController::start(dir.path(), 16);
        let operator = Operator::start(&space, &["--controller-at".to_owned(), at(&space, &controller)]);
        space.example("minimal.yaml");
        space.until_condition(("warehouse", "main"), "Ready", "True", "ControllersReady");
        // The operator has made the group known there, or no node could join it.
        space.until_condition(GROUP, "Ready", "False", "ShardsUnassigned");
        let nodes = [1, 0].map(|n| TestNode::start(&controller.url, "etl", &format!("etl-node-{n}")));
        let whole = Self { operator: Some(operator), nodes: nodes.into(), controller, space, _dir: dir };
        let said = whole.space.until_condition(GROUP, "Ready", "True", "NodesReady");
        assert_eq!(said, "2 nodes serve 16 shards");
        whole
    }

    fn kill_operator(&mut self) {
        self.operator = None;
    }

    fn start_operator(&mut self) {
        let args = ["--controller-at".to_owned(), at(&self.space, &self.controller)];
        self.operator = Some(Operator::start(&self.space, &args));
    }

    fn assert_well(&mut self) {
        self.operator.as_mut().expect("it was started").assert_well();
    }

    /// The node that joined first, and has the higher number.
    fn second(&self) -> &TestNode {
        &self.nodes[0]
    }

    fn scale(&self, replicas: u32) {
        self.space.kubectl(&["scale", "computegroup", "etl", &format!("--replicas={replicas}")]);
    }

    fn replicas(&self) -> u64 {
        let set = self.space.get("statefulset", "etl-node").expect("there");
        set["spec"]["replicas"].as_u64().expect("a number")
    }

    fn volume_of(&self, claim: &str) -> serde_json::Value {
        self.space.get("persistentvolumeclaim", claim).expect("there")["metadata"]["uid"].clone()
    }

    fn until_claims(&self, wanted: &[&str]) {
        until("the volumes", || {
            let claims = self.space.names("persistentvolumeclaims");
            if claims == wanted { Ok(()) } else { Err(format!("{claims:?}")) }
        });
    }
}

fn at(space: &Space<'_>, controller: &MoorhouseController) -> String {
    format!("{}/main={}", space.name, controller.url)
}

pub fn scale_in_drains_first(cluster: &Cluster) {
    let mut warehouse = Warehouse::start(cluster);
    // Its shards cannot leave: the condition says why, and nothing else happens.
    warehouse.second().set(Script { holds_fast: true, ..Script::default() });
    warehouse.scale(1);
    let said = warehouse.space.until_condition(GROUP, "Degraded", "True", "DrainFailed");
    assert!(!said.is_empty());
    let said = warehouse.space.until_condition(GROUP, "Progressing", "True", "Draining");
    assert!(said.contains("shards are yet to leave 1 nodes"), "{said}");
    assert_eq!(warehouse.replicas(), 2);
    // Killed in the midst: another one goes on from where it was.
    warehouse.kill_operator();
    warehouse.second().set(Script::default());
    warehouse.start_operator();
    warehouse.space.until_replicas("etl-node", 1);
    warehouse.until_claims(&["cache-etl-node-0"]);
    let said = warehouse.space.until_condition(GROUP, "Ready", "True", "NodesReady");
    assert_eq!(said, "1 nodes serve 16 shards");
    warehouse.space.until_condition(GROUP, "Degraded", "False", "AsExpected");
    warehouse.assert_well();
    // And out again: with a new volume, and on the books anew.
    warehouse.scale(2);
    warehouse.space.until_replicas("etl-node", 2);
    warehouse.until_claims(&["cache-etl-node-0", "cache-etl-node-1"]);
    warehouse.nodes[0] = TestNode::start(&warehouse.controller.url, "etl", "etl-node-1");
    let said = warehouse.space.until_condition(GROUP, "Ready", "True", "NodesReady");
    assert_eq!(said, "2 nodes serve 16 shards");
}

pub fn scale_in_waits_for_staged_parts(cluster: &Cluster) {
    let mut warehouse = Warehouse::start(cluster);
    warehouse.second().set(Script { staged_parts: 3, ..Script::default() });
    warehouse.controller.until_staged("etl-node-1", 3);
    let volume = warehouse.volume_of("cache-etl-node-1");
    warehouse.scale(1);
    let said = warehouse.space.until_condition(GROUP, "Progressing", "True", "StoringParts");
    assert!(said.starts_with("3 parts"), "{said}");
    assert_eq!(warehouse.replicas(), 2);
    // More nodes are asked for in the meantime: what has begun is finished first, and then it is two again.
    warehouse.scale(2);
    warehouse.second().set(Script::default());
    until("the second node has a new volume", || {
        let claim = warehouse.space.get("persistentvolumeclaim", "cache-etl-node-1").ok_or("there is none")?;
        if claim["metadata"]["uid"] == volume { Err("it is the old one".to_owned()) } else { Ok(()) }
    });
    warehouse.space.until_replicas("etl-node", 2);
    warehouse.assert_well();
}

pub fn scale_in_stands_still_without_the_controller(cluster: &Cluster) {
    let space = Space::new(cluster);
    let mut operator = Operator::start(&space, &[]);
    space.example("minimal.yaml");
    space.until_replicas("etl-node", 2);
    space.kubectl(&["scale", "computegroup", "etl", "--replicas=1"]);
    let said = space.until_condition(GROUP, "Progressing", "True", "AwaitingController");
    assert!(said.contains("nothing is scaled in without the controller's word"), "{said}");
    space.until_replicas("etl-node", 2);
    // Out needs nobody's leave.
    space.kubectl(&["scale", "computegroup", "etl", "--replicas=3"]);
    space.until_replicas("etl-node", 3);
    operator.assert_well();
}

pub fn suspended_and_resumed(cluster: &Cluster) {
    let mut warehouse = Warehouse::start(cluster);
    let space = &warehouse.space;
    warehouse.second().set(Script { staged_parts: 1, ..Script::default() });
    warehouse.controller.until_staged("etl-node-1", 1);
    space.kubectl(&["patch", "computegroup", "etl", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    space.until_condition(GROUP, "Progressing", "True", "StoringParts");
    assert_eq!(warehouse.replicas(), 2);
    warehouse.second().set(Script::default());
    space.until_condition(GROUP, "Suspended", "True", "Suspended");
    assert_eq!(warehouse.replicas(), 0);
    // Endpoint and volumes stay.
    assert!(space.get("service", "etl-gateway").is_some());
    warehouse.until_claims(&["cache-etl-node-0", "cache-etl-node-1"]);
    // Asked to come back with fewer: with all first, since they hold shards.
    space.kubectl(&["patch", "computegroup", "etl", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    space.until_replicas("etl-node", 2);
    space.until_condition(GROUP, "Ready", "True", "NodesReady");
    warehouse.assert_well();
}
