//! The calls to etcd that the agent makes: gRPC messages with field numbers as in etcd 3.6's
//! api/etcdserverpb/rpc.proto. Fields that the agent neither writes nor reads are left out.

use crate::files::{self, FileError};
use crate::grpc::{self, GrpcError};
use crate::http::{self, Connection, HttpError};
use prost::Message;
use spec::{paths, ports};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::ClientConfig;

/// A member that does not answer within this time is down.
const LIMIT: Duration = Duration::from_secs(3);

/// A database at its quota is copied at the pace of a slow disk.
const DEFRAGMENT_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, PartialEq, Message)]
pub struct Header {
    #[prost(uint64, tag = "2")]
    pub member: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(int64, tag = "3")]
    limit: i64,
    #[prost(bool, tag = "9")]
    count_only: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// `StatusResponse`
#[derive(Clone, PartialEq, Message)]
pub struct MemberStatus {
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    #[prost(int64, tag = "3")]
    pub database_size: i64,
    /// 0: no leader is known.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    #[prost(uint64, tag = "5")]
    pub raft_index: u64,
    #[prost(uint64, tag = "7")]
    pub applied_index: u64,
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
    #[prost(bool, tag = "10")]
    pub learner: bool,
}

impl MemberStatus {
    pub fn member(&self) -> u64 {
        self.header.as_ref().map_or(0, |header| header.member)
    }

    pub fn is_leader(&self) -> bool {
        self.leader != 0 && self.leader == self.member()
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Member {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Empty until it has started.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    pub learner: bool,
}

#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(bool, tag = "1")]
    linearizable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, repeated, tag = "2")]
    members: Vec<Member>,
}

#[derive(Clone, PartialEq, Message)]
struct Add {
    #[prost(string, repeated, tag = "1")]
    peer_urls: Vec<String>,
    #[prost(bool, tag = "2")]
    learner: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Added {
    #[prost(message, optional, tag = "2")]
    pub member: Option<Member>,
    #[prost(message, repeated, tag = "3")]
    pub members: Vec<Member>,
}

/// `MemberRemoveRequest`, `MemberPromoteRequest` and `MoveLeaderRequest`
#[derive(Clone, PartialEq, Message)]
struct OfMember {
    #[prost(uint64, tag = "1")]
    id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Update {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, repeated, tag = "2")]
    peer_urls: Vec<String>,
}

/// etcd as the API server's client certificate lets the agent in.
pub struct Client {
    tls: Arc<ClientConfig>,
    /// To the member of this machine, which is asked every few seconds.
    own: RefCell<Option<Connection>>,
}

impl Client {
    /// With the certificates below `root`.
    ///
    /// # Errors
    /// A file is not there or is no TLS material.
    pub fn new(root: &Path) -> Result<Client, ClientError> {
        let folder = crate::facts::under(root, paths::PKI_DIR).join("kubernetes");
        let read = |name: &str| files::read(&folder.join(name));
        let tls = http::tls(&read("etcd-ca.crt")?, &read("etcd-client.crt")?, &read("etcd-client.key")?)?;
        Ok(Client { tls, own: RefCell::default() })
    }

    /// A connection to the member of this machine.
    pub async fn own(&self) -> Result<Etcd, GrpcError> {
        let known = self.own.borrow().clone().filter(|connection| !connection.is_closed());
        if let Some(connection) = known {
            return Ok(Etcd { connection });
        }
        let etcd = self.at(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ports::ETCD_CLIENT)).await?;
        *self.own.borrow_mut() = Some(etcd.connection.clone());
        Ok(etcd)
    }

    /// What a member that answers at its client URL says of itself.
    pub async fn status_of(&self, member: &Member) -> Option<MemberStatus> {
        let etcd = self.by_url(member.client_urls.first()?).await.ok()?;
        etcd.status().await.ok().filter(|status| status.member() == member.id)
    }

    /// A connection to a member by its client URL.
    async fn by_url(&self, url: &str) -> Result<Etcd, GrpcError> {
        let address = url.strip_prefix("https://").and_then(|rest| rest.parse().ok());
        let address = address.ok_or_else(|| GrpcError::Protocol {
            method: "connect".into(),
            reason: format!("{url} is not https://ADDRESS:PORT"),
        })?;
        self.at(address).await
    }

    async fn at(&self, address: SocketAddr) -> Result<Etcd, GrpcError> {
        // Every member's certificate names localhost as well.
        let connect = Connection::tls(address, "localhost", self.tls.clone());
        let late = || HttpError::Late { peer: address.to_string(), seconds: LIMIT.as_secs() };
        let connection = tokio::time::timeout(LIMIT, connect).await.map_err(|_| late())??;
        Ok(Etcd { connection })
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// A connection to one member.
pub struct Etcd {
    connection: Connection,
}

impl Etcd {
    async fn call<Q: Message, A: Message + Default>(&self, method: &str, question: &Q) -> Result<A, GrpcError> {
        self.call_within(LIMIT, method, question).await
    }

    async fn call_within<Q: Message, A: Message + Default>(
        &self,
        limit: Duration,
        method: &str,
        question: &Q,
    ) -> Result<A, GrpcError> {
        grpc::call(&self.connection, &format!("etcdserverpb.{method}"), &[], question, limit).await
    }

    /// A linearizable read: answered only with a quorum, and never by a learner.
    pub async fn read(&self) -> Result<(), GrpcError> {
        let range = Range { key: b"imgbuild".to_vec(), limit: 1, count_only: true };
        self.call::<_, Nothing>("KV/Range", &range).await.map(drop)
    }

    pub async fn status(&self) -> Result<MemberStatus, GrpcError> {
        self.call("Maintenance/Status", &Nothing {}).await
    }

    /// The member answers nobody until it is done.
    pub async fn defragment(&self) -> Result<(), GrpcError> {
        self.call_within::<_, Nothing>(DEFRAGMENT_LIMIT, "Maintenance/Defragment", &Nothing {}).await.map(drop)
    }

    pub async fn members(&self) -> Result<Vec<Member>, GrpcError> {
        self.list(true).await
    }

    /// As this member last heard, with a quorum or without.
    pub async fn known_members(&self) -> Result<Vec<Member>, GrpcError> {
        self.list(false).await
    }

    async fn list(&self, linearizable: bool) -> Result<Vec<Member>, GrpcError> {
        self.call::<_, Listed>("Cluster/MemberList", &List { linearizable }).await.map(|list| list.members)
    }

    pub async fn add_learner(&self, peer_url: &str) -> Result<Added, GrpcError> {
        self.call("Cluster/MemberAdd", &Add { peer_urls: vec![peer_url.into()], learner: true }).await
    }

    pub async fn remove(&self, id: u64) -> Result<(), GrpcError> {
        self.call::<_, Nothing>("Cluster/MemberRemove", &OfMember { id }).await.map(drop)
    }

    pub async fn promote(&self, id: u64) -> Result<(), GrpcError> {
        self.call::<_, Nothing>("Cluster/MemberPromote", &OfMember { id }).await.map(drop)
    }

    /// Asks the leader, which this member must be, to make another the leader.
    pub async fn move_leader(&self, id: u64) -> Result<(), GrpcError> {
        self.call::<_, Nothing>("Maintenance/MoveLeader", &OfMember { id }).await.map(drop)
    }

    pub async fn update(&self, id: u64, peer_urls: Vec<String>) -> Result<(), GrpcError> {
        self.call::<_, Nothing>("Cluster/MemberUpdate", &Update { id, peer_urls }).await.map(drop)
    }
}
