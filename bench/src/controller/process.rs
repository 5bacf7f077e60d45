//! Controller processes, and agents that speak to them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorhouse_base::ports::free_row;
use moorhouse_catalog::{CommitToken, PartChange, codec};
use moorhouse_proto::CommitPartsRequest;
use moorhouse_proto::controller_client::ControllerClient;
use tonic::transport::{Channel, Endpoint};

use super::books::{Form, Seat, part};
use super::load::{Load, Worker};
use crate::error::BenchError;

const MESSAGE_BYTES: usize = 256 << 20;
/// The issue's: a takeover is measured under it.
pub const LEADER_TTL: Duration = Duration::from_secs(3);
const START_TIMEOUT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(10);

/// What a controller is started with.
pub struct Place<'a> {
    pub store_url: &'a str,
    pub objects_url: &'a str,
    pub dir: &'a Path,
}

/// A controller process of its own. Killed with this value.
pub struct Controller {
    process: Child,
    port: u16,
}

impl Controller {
    /// Starts the binary beside this one.
    pub fn start(place: &Place) -> Result<Self, BenchError> {
        let port = free_row(2).map_err(BenchError::io("no free port"))?;
        let here = std::env::current_exe().map_err(BenchError::io("where is this program?"))?;
        let binary = here.parent().map_or_else(PathBuf::new, Path::to_owned).join("moorhouse-controller");
        let log = place.dir.join(format!("controller-{port}.log"));
        let log = std::fs::File::create(log).map_err(BenchError::io("cannot write a controller's log"))?;
        let mut command = Command::new(&binary);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--metrics", &format!("127.0.0.1:{}", port + 1)]);
        command.args(["--store", place.store_url, "--objects", place.objects_url]);
        command.args(["--leader-ttl-ms", &LEADER_TTL.as_millis().to_string()]);
        let errors = log.try_clone().map_err(BenchError::io("cannot write a controller's log"))?;
        let process = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let process = process.map_err(BenchError::io(format!("cannot run {}", binary.display())))?;
        Ok(Self { process, port })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<(), BenchError> {
        self.process.kill().map_err(BenchError::io("cannot kill a controller"))?;
        self.process.wait().map(drop).map_err(BenchError::io("cannot wait for a controller"))
    }

    /// A connection of its own, made on first use.
    pub fn client(&self) -> Result<ControllerClient<Channel>, BenchError> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port));
        let endpoint = endpoint.map_err(|error| BenchError::Unexpected(error.to_string()))?.tcp_nodelay(true);
        Ok(ControllerClient::new(endpoint.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES))
    }

    /// One agent for each seat, with a connection of its own.
    pub fn agents(&self, seats: &[Seat]) -> Result<Load<Agent>, BenchError> {
        let agent = |seat: &Seat| Agent::new(self.client()?, seat.clone());
        Ok(Load::new(seats.iter().map(agent).collect::<Result<_, BenchError>>()?))
    }

    /// Until a commit has succeeded; a commit is the last thing that a new leader can do.
    pub async fn commits(&mut self, agent: &mut Agent) -> Result<(), BenchError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match agent.work().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
            if let Some(status) = self.process.try_wait().map_err(BenchError::io("a controller"))? {
                return Err(BenchError::Unexpected(format!("the controller has ended: {status}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Commits one new part after the other, each of 20 columns and staged on its node, as after small INSERTs.
pub struct Agent {
    controller: ControllerClient<Channel>,
    seat: Seat,
    block: u64,
}

/// Far above those in the books.
const FIRST_BLOCK: u64 = 1_000_000_000;

impl Agent {
    pub fn new(controller: ControllerClient<Channel>, seat: Seat) -> Result<Self, BenchError> {
        // Another agent of this seat may have been here before.
        let block = FIRST_BLOCK + super::books::now_ms() % 1_000_000_000 * 1_000;
        Ok(Self { controller, seat, block })
    }
}

impl Worker for Agent {
    async fn work(&mut self) -> Result<(), BenchError> {
        self.block += 1;
        let added = vec![part(self.seat.at, self.block, Form::Compact, Some(&self.seat.node))?];
        let change = PartChange { added, ..PartChange::default() };
        let request = CommitPartsRequest {
            node: self.seat.node.to_string(),
            incarnation: Seat::INCARNATION.0,
            table: self.seat.at.table.to_wire().into(),
            shard: u32::from(self.seat.at.shard.0),
            epoch: Seat::EPOCH.0,
            change_record: codec::encode(&change).into(),
            token: CommitToken::random().to_wire().into(),
        };
        let answer = self.controller.commit_parts(request).await;
        answer.map(drop).map_err(|status| BenchError::Unexpected(format!("a commit: {}", status.message())))
    }
}
