//! The warehouse as this gateway knows it: the newest [`ClusterView`], and what it has in flight on each node.
//!
//! The view outlives the controller's absence: routing goes on with the last one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use moorhouse_catalog::{ClusterView, GroupName, NodeEndpoint, NodeName, SqlName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What a lease counts; statements and connections are balanced apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// One HTTP request.
    Statement,
    /// One native connection.
    Connection,
}

#[derive(Debug, Default)]
struct Load {
    statements: AtomicUsize,
    connections: AtomicUsize,
}

impl Load {
    fn of(&self, work: Work) -> &AtomicUsize {
        match work {
            Work::Statement => &self.statements,
            Work::Connection => &self.connections,
        }
    }
}

/// A node picked for one piece of work, counted as its load until dropped.
#[derive(Debug)]
pub struct Lease {
    pub node: NodeEndpoint,
    load: Arc<Load>,
    work: Work,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.of(self.work).fetch_sub(1, Ordering::Relaxed);
    }
}

/// A view with its tables by name.
#[derive(Debug, Default)]
struct Known {
    view: Option<ClusterView>,
    owners: HashMap<SqlName, HashMap<SqlName, GroupName>>,
}

impl Known {
    fn new(view: ClusterView) -> Self {
        let mut owners: HashMap<SqlName, HashMap<SqlName, GroupName>> = HashMap::new();
        for table in &view.tables {
            owners.entry(table.database.clone()).or_default().insert(table.name.clone(), table.owner.clone());
        }
        Self { view: Some(view), owners }
    }

    fn nodes(&self, group: &GroupName) -> impl Iterator<Item = &NodeEndpoint> {
        let groups = self.view.iter().flat_map(|view| &view.groups);
        groups.filter(move |known| known.name == *group).flat_map(|known| &known.nodes)
    }

    fn owner(&self, database: &str, table: &str) -> Option<&GroupName> {
        let (database, table) = (SqlName::new(database).ok()?, SqlName::new(table).ok()?);
        self.owners.get(&database)?.get(&table)
    }
}

/// Shared by all endpoints of a gateway.
#[derive(Clone)]
pub struct Cluster {
    known: watch::Sender<Arc<Known>>,
    loads: Arc<Mutex<HashMap<NodeName, Arc<Load>>>>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { known: watch::Sender::new(Arc::default()), loads: Arc::default() }
    }
}

impl Cluster {
    /// Takes over a view, whatever its revision: the controller knows which is newest.
    pub fn publish(&self, view: ClusterView) {
        let nodes: Vec<_> = view.groups.iter().flat_map(|group| &group.nodes).map(|node| node.node.clone()).collect();
        self.loads.lock().expect("no holder panics").retain(|node, _| nodes.contains(node));
        self.known.send_replace(Arc::new(Known::new(view)));
    }

    /// Returns when a first view is there.
    pub async fn first_view(&self) {
        self.settled(|known| known.view.is_some(), None).await;
    }

    /// The group whose engines write this table.
    pub fn owner(&self, database: &str, table: &str) -> Option<GroupName> {
        self.known.borrow().owner(database, table).cloned()
    }

    /// Waits until the view says this of a table, or the deadline has passed; true if it does.
    pub async fn table_is(&self, database: &str, table: &str, present: bool, deadline: Instant) -> bool {
        self.settled(|known| known.owner(database, table).is_some() == present, Some(deadline)).await
    }

    /// Waits for any new view until the deadline.
    pub async fn changed(&self, deadline: Instant) {
        let mut views = self.known.subscribe();
        let _ = timeout_at(deadline, views.changed()).await;
    }

    async fn settled(&self, wanted: impl Fn(&Known) -> bool, deadline: Option<Instant>) -> bool {
        let mut views = self.known.subscribe();
        let seen = views.wait_for(|known| wanted(known));
        match deadline {
            Some(deadline) => timeout_at(deadline, seen).await.is_ok_and(|seen| seen.is_ok()),
            None => seen.await.is_ok(),
        }
    }

    /// Every ready node of a group, counted as busy.
    pub fn all(&self, group: &GroupName, work: Work) -> Vec<Lease> {
        let known = self.known.borrow().clone();
        known.nodes(group).filter(|node| node.ready).map(|node| self.lease(node, work)).collect()
    }

    /// The ready node of a group with the least of this work, chance deciding among equals; with a session always the same
    /// node as long as that node is ready. Never one of `not`.
    pub fn pick(&self, group: &GroupName, work: Work, session: Option<&str>, not: &[NodeName]) -> Option<Lease> {
        let known = self.known.borrow().clone();
        let ready = known.nodes(group).filter(|node| node.ready && !not.contains(&node.node));
        let node = match session {
            Some(session) => ready.max_by_key(|node| rendezvous(session, node.node.as_str())),
            None => {
                ready.min_by_key(|node| (self.load(&node.node).of(work).load(Ordering::Relaxed), rand::random::<u32>()))
            }
        }?;
        Some(self.lease(node, work))
    }

    /// This node of a group, counted as busy, if it is ready.
    pub fn take(&self, group: &GroupName, name: &NodeName, work: Work) -> Option<Lease> {
        let known = self.known.borrow().clone();
        known.nodes(group).find(|node| node.node == *name && node.ready).map(|node| self.lease(node, work))
    }

    /// Whether another ready node of the group has less to do by more than one statement: then it pays to go there.
    pub fn is_overloaded(&self, group: &GroupName, name: &NodeName) -> bool {
        let known = self.known.borrow().clone();
        let statements = |node: &NodeName| self.load(node).statements.load(Ordering::Relaxed);
        let least = known.nodes(group).filter(|node| node.ready).map(|node| statements(&node.node)).min();
        least.is_some_and(|least| statements(name) > least + 1)
    }

    fn lease(&self, node: &NodeEndpoint, work: Work) -> Lease {
        let load = self.load(&node.node);
        load.of(work).fetch_add(1, Ordering::Relaxed);
        Lease { node: node.clone(), load, work }
    }

    fn load(&self, node: &NodeName) -> Arc<Load> {
        self.loads.lock().expect("no holder panics").entry(node.clone()).or_default().clone()
    }
}

/// Highest-random-weight hashing (FNV-1a and a final mix, so that all builds agree): a session moves only when its node goes.
fn rendezvous(session: &str, node: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in session.bytes().chain([0]).chain(node.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use moorhouse_catalog::{GroupView, Revision, ShardCount, TableView};

    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).expect("a name")
    }

    fn group(text: &str) -> GroupName {
        GroupName::new(text).expect("a name")
    }

    fn cluster(nodes: &[(&str, bool)]) -> Cluster {
        let endpoint = |(node, ready): &(&str, bool)| NodeEndpoint {
            node: name(node),
            engine_http: "127.0.0.1:1".into(),
            engine_native: "127.0.0.1:2".into(),
            ready: *ready,
        };
        let cluster = Cluster::default();
        cluster.publish(ClusterView {
            revision: Revision(1),
            shards: ShardCount::new(8).expect("a count"),
            groups: vec![GroupView { name: group("etl"), nodes: nodes.iter().map(endpoint).collect() }],
            databases: vec![],
            tables: vec![TableView {
                database: SqlName::new("d").expect("a name"),
                name: SqlName::new("t").expect("a name"),
                owner: group("etl"),
            }],
        });
        cluster
    }

    #[test]
    fn the_least_loaded_ready_node_is_picked() {
        let cluster = cluster(&[("a", true), ("b", true), ("c", false)]);
        let pick = |not: &[NodeName]| cluster.pick(&group("etl"), Work::Statement, None, not);
        let (first, second) = (pick(&[]).expect("ready"), pick(&[]).expect("ready"));
        assert_ne!(first.node.node, second.node.node);
        let freed = first.node.node.clone();
        drop(first);
        let third = pick(&[]).expect("ready");
        assert_eq!(third.node.node, freed);
        assert!(pick(&[name("a"), name("b")]).is_none());
        assert_eq!(cluster.all(&group("etl"), Work::Statement).len(), 2);
        assert!(cluster.pick(&group("bi"), Work::Statement, None, &[]).is_none());
    }

    #[test]
    fn statements_and_connections_are_counted_apart() {
        let cluster = cluster(&[("a", true), ("b", true)]);
        let statement = cluster.pick(&group("etl"), Work::Statement, None, &[]).expect("ready");
        let other = cluster
            .pick(&group("etl"), Work::Statement, None, std::slice::from_ref(&statement.node.node))
            .expect("ready");
        let connections: Vec<_> = (0..4).map(|_| cluster.pick(&group("etl"), Work::Connection, None, &[])).collect();
        let on = |node: &NodeName| connections.iter().flatten().filter(|lease| lease.node.node == *node).count();
        assert_eq!((on(&statement.node.node), on(&other.node.node)), (2, 2));
    }

    #[test]
    fn a_session_stays_until_its_node_goes_and_others_do_not_move() {
        let all = [("a", true), ("b", true), ("c", true)];
        let node_of = |cluster: &Cluster, session: &str| {
            cluster.pick(&group("etl"), Work::Statement, Some(session), &[]).expect("ready").node.node.clone()
        };
        let (full, without_b) = (cluster(&all), cluster(&[("a", true), ("b", false), ("c", true)]));
        let mut on_b = 0;
        for session in (0..300).map(|n| format!("session-{n}")) {
            let before = node_of(&full, &session);
            assert_eq!(before, node_of(&full, &session));
            if before == name("b") {
                on_b += 1;
            } else {
                assert_eq!(before, node_of(&without_b, &session));
            }
        }
        assert!((60..140).contains(&on_b), "{on_b} of 300 sessions on one of three nodes");
    }

    #[tokio::test]
    async fn tables_are_found_and_waited_for() {
        let cluster = cluster(&[]);
        assert_eq!(cluster.owner("d", "t"), Some(group("etl")));
        assert_eq!(cluster.owner("d", "u"), None);
        let soon = Instant::now() + std::time::Duration::from_millis(20);
        assert!(cluster.table_is("d", "t", true, soon).await);
        assert!(!cluster.table_is("d", "t", false, soon).await);
    }
}
