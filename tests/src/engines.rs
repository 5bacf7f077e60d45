//! Ways to a node's engine past the gateway, as its administrator.

use moorhouse_catalog::{GroupName, Incarnation, Node, NodeName, NodeView, codec};
use moorhouse_engine::SqlClient;
use moorhouse_proto::RegisterRequest;
use moorhouse_proto::controller_client::ControllerClient;

use crate::warehouse::TestWarehouse;

const ADMINISTRATOR: &str = "moorhouse_agent";
/// Where moorctl puts a node's ports: see `ctl/src/dev/plan.rs`.
const NODES_FROM: u16 = 100;
const PORTS_OF_A_NODE: u16 = 16;
const ENGINE_HTTP: u16 = 2;

/// The engine of the node that was made as the `slot`-th, from 0, of a warehouse with this many shards.
///
/// # Panics
/// If the controller does not answer.
pub async fn engine_of(warehouse: &TestWarehouse, slot: u16, shards: u16) -> SqlClient {
    let port = warehouse.home.port_base + NODES_FROM + slot * (PORTS_OF_A_NODE + shards) + ENGINE_HTTP;
    SqlClient::new(&format!("127.0.0.1:{port}"), ADMINISTRATOR, &admin_password(warehouse).await)
}

/// As an agent learns it: a node of a name of its own asks for its view.
async fn admin_password(warehouse: &TestWarehouse) -> String {
    let node = Node {
        name: NodeName::new("observer").expect("a name"),
        group: GroupName::new("bi").expect("a name"),
        agent_address: "127.0.0.1:1".into(),
        engine_http: "127.0.0.1:1".into(),
        engine_native: "127.0.0.1:1".into(),
        incarnation: Incarnation(0),
        draining: false,
    };
    let url = format!("http://127.0.0.1:{}", warehouse.home.port_base);
    let mut controller = ControllerClient::connect(url).await.expect("a controller");
    let request = RegisterRequest { node_record: codec::encode(&node).into() };
    let reply = controller.register(request).await.expect("registered").into_inner();
    let view: NodeView = codec::decode(&reply.view_record).expect("a view");
    view.engine_admin_password.expose().to_owned()
}
