//! A real etcd, and plain puts to it: what a store of its own makes possible at all.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorhouse_base::ports::free_row;
use prost::Message;
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::load::{Load, Worker};
use crate::error::BenchError;

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// About the key of a part and its record.
const KEY_BYTES: usize = 80;
const VALUE_BYTES: usize = 320;

/// One member, its data on the disk that is measured. Ends with this value.
pub struct Etcd {
    process: Child,
    client_port: u16,
}

impl Etcd {
    pub async fn start(dir: &Path) -> Result<Self, BenchError> {
        let client_port = free_row(2).map_err(BenchError::io("no free port"))?;
        let [client, peer] = [client_port, client_port + 1].map(|port| format!("http://127.0.0.1:{port}"));
        std::fs::create_dir_all(dir).map_err(BenchError::io(format!("cannot make {}", dir.display())))?;
        let log = std::fs::File::create(dir.join("etcd.log")).map_err(BenchError::io("cannot write etcd's log"))?;
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.join("etcd"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--quota-backend-bytes", "8589934592"]);
        command.args(["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1m"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut etcd = Self { process: process.map_err(BenchError::io("cannot start etcd"))?, client_port };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", client_port)).await.is_err() {
            let ended = etcd.process.try_wait().map_err(BenchError::io("etcd"))?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(BenchError::Unexpected(format!("etcd does not answer; its log is in {}", dir.display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(etcd)
    }

    pub fn store_url(&self, prefix: &str) -> String {
        format!("etcd://127.0.0.1:{}/{prefix}", self.client_port)
    }

    /// So many clients, each with a connection of its own, that put one key after the other.
    pub async fn putters(&self, count: usize) -> Result<Load<Putter>, BenchError> {
        let mut putters = Vec::with_capacity(count);
        for number in 0..count {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.client_port));
            let endpoint = endpoint.map_err(|error| BenchError::Unexpected(error.to_string()))?.tcp_nodelay(true);
            let channel = endpoint.connect().await.map_err(|error| BenchError::Unexpected(error.to_string()))?;
            putters.push(Putter { grpc: Grpc::new(channel), number, puts: 0 });
        }
        Ok(Load::new(putters))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// etcdserverpb.PutRequest
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// etcdserverpb.PutResponse, of which nothing is read.
#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

pub struct Putter {
    grpc: Grpc<Channel>,
    number: usize,
    puts: u64,
}

impl Worker for Putter {
    async fn work(&mut self) -> Result<(), BenchError> {
        self.puts += 1;
        let key = format!("raw/{:06}/{:020}/", self.number, self.puts);
        let key = format!("{key:x<KEY_BYTES$}").into_bytes();
        let request = PutRequest { key, value: vec![b'v'; VALUE_BYTES] };
        let unexpected = |error: String| BenchError::Unexpected(format!("a put to etcd: {error}"));
        self.grpc.ready().await.map_err(|error| unexpected(error.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
        let answer = self.grpc.unary(tonic::Request::new(request), path, codec).await;
        answer.map(drop).map_err(|status| unexpected(status.message().to_owned()))
    }
}
