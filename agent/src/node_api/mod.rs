//! What the agent answers on its port (`spec::agent`, docs/node-api.yaml): to other machines while
//! clusters form and nodes join, and to people.

mod disks;
mod dmesg;
mod logs;
mod network;
mod power;
mod processes;
mod table;

use crate::api::Api;
use crate::facts::{Facts, under};
use crate::machine::{Status, say};
use crate::roll::RollError;
use crate::server::{Answer, Caller, Handler, Question};
use crate::upgrade::{Slots, UpgradeError, Upgrades};
use crate::{certificates, claim, etcd, handover, join, pending, roll, trust};
use hyper::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spec::agent::{Accepted, AgentStatus, CordonRequest, HoldRequest, OrderAnswer, OrderRequest, VERSION};
use spec::paths;
use spec::status::InitStatus;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use table::Call;
use time::OffsetDateTime;

/// The answers of this machine.
pub struct NodeApi {
    pub root: PathBuf,
    pub facts: Rc<Facts>,
    pub status: Rc<Status>,
    /// Masters have it.
    pub member: Option<Rc<etcd::Member>>,
    pub api: Rc<Api>,
    pub upgrades: Upgrades,
    pub slots: Rc<Slots>,
}

impl Handler for NodeApi {
    async fn answer(&self, caller: &Caller, question: &Question<'_>) -> Answer {
        let Question { method, path, query, body } = *question;
        let Some((endpoint, name)) = table::find(method, path) else {
            return Answer::refusal(StatusCode::NOT_FOUND, format!("there is no {method} {path}"));
        };
        if !endpoint.admits(caller) {
            let reason = format!("{method} {path} is not for {} ({})", caller.name, caller.organization);
            return Answer::refusal(StatusCode::FORBIDDEN, reason);
        }
        match (endpoint.call, &self.member) {
            (Call::Report, Some(member)) => Answer::of(&member.report()),
            (Call::Learner, Some(member)) => learner(member, caller, body).await,
            (Call::Join, Some(member)) => join::answer(&self.facts, &self.api, member.cluster(), caller, body).await,
            (Call::Pending, Some(_)) => pending::list(&self.api).await,
            (Call::Approve, Some(_)) => match document(body) {
                Ok(request) => pending::approve(&self.api, caller, &request).await,
                Err(refusal) => refusal,
            },
            (Call::JoinVoid, Some(_)) => match claim::void(&self.api).await {
                Ok(()) => {
                    let message = "join credentials that were issued until now are void";
                    say(format!("{message}; asked by {} ({})", caller.name, caller.organization));
                    Answer::of(&Accepted { message: message.into() })
                }
                Err(error) => Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, claim::unknown(error)),
            },
            (Call::Handover, Some(member)) => {
                handover::answer(&self.facts, &self.api, member.cluster(), caller, body).await
            }
            (Call::EtcdMembers, Some(member)) => match member.members().await {
                Ok(members) => Answer::of(&members),
                Err(reason) => Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            (Call::EtcdDefrag, Some(member)) => match member.defragment().await {
                Ok(message) => Answer::of(&Accepted { message }),
                Err(reason) => Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            (Call::EtcdHold, Some(member)) => hold(member, body).await,
            (Call::EtcdOrder, Some(member)) => order(member, caller, body),
            (Call::EtcdSnapshot, Some(_)) => match etcd::send_snapshot(&self.root).await {
                Ok(chunks) => Answer::bytes(chunks),
                Err(error) => Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            },
            (Call::EtcdRestore, Some(_)) => restore(&self.root, name, query, body),
            (Call::Cordon, Some(_)) => self.cordon(caller, name, body).await,
            (Call::Drain, Some(_)) => rolled(roll::drain(&self.api, name).await),
            (Call::Lock, Some(_)) => match document(body) {
                Ok(request) => {
                    let locked = roll::lock(&self.api, &request, OffsetDateTime::now_utc()).await;
                    rolled(locked.map(|()| Accepted { message: "locked".into() }))
                }
                Err(refusal) => refusal,
            },
            (
                Call::Report
                | Call::Learner
                | Call::Join
                | Call::Pending
                | Call::Approve
                | Call::JoinVoid
                | Call::Handover
                | Call::EtcdMembers
                | Call::EtcdDefrag
                | Call::EtcdHold
                | Call::EtcdOrder
                | Call::EtcdSnapshot
                | Call::EtcdRestore
                | Call::Cordon
                | Call::Drain
                | Call::Lock,
                None,
            ) => {
                let reason = format!("{} is no master: {path} is for masters", self.facts.identity.name);
                Answer::refusal(StatusCode::NOT_FOUND, reason)
            }
            (Call::Upgrade, _) => Answer::of(&self.upgrades.status()),
            (Call::TakeUpgrade, _) => self.take_upgrade(caller, query, body),
            (Call::UpgradeChunk, _) => self.upgrade_chunk(name, query, body).await,
            (Call::Trust, _) => match trust::current(&self.facts, &self.root, OffsetDateTime::now_utc()) {
                Ok(trust) => Answer::of(&trust),
                Err(error) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            (Call::TakeTrust, _) => self.take_trust(caller, body),
            (Call::Status, _) => self.status(),
            (Call::Log, _) => logs::answer(&self.root, &init_status(&self.root), name, query),
            (Call::Dmesg, _) => read("/dev/kmsg", dmesg::read(), |messages| Answer::of(&messages)),
            (Call::Processes, _) => {
                let found = processes::read(Path::new("/proc"));
                read("/proc", found, |processes| Answer::of(&processes))
            }
            (Call::Network, _) => read("rtnetlink", network::read(), |network| Answer::of(&network)),
            (Call::Disks, _) => read("the disks", disks::read(), |disks| Answer::of(&disks)),
            (Call::Certificates, _) => Answer::of(&certificates::ends(&self.root)),
            (Call::Reboot, member) => {
                power::take_down(self, member.as_deref(), power::Down::Reboot, caller, body).await
            }
            (Call::Shutdown, member) => {
                power::take_down(self, member.as_deref(), power::Down::PowerOff, caller, body).await
            }
            (Call::Reset, member) => power::reset(self, member.as_deref(), caller, body).await,
        }
    }
}

impl NodeApi {
    fn take_trust(&self, caller: &Caller, body: &[u8]) -> Answer {
        let request = match document(body) {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        if let Err(reason) = trust::take(&self.facts, &self.root, &request, OffsetDateTime::now_utc()) {
            return Answer::refusal(StatusCode::CONFLICT, reason);
        }
        say(format!("other authorities, sent by {} ({})", caller.name, caller.organization));
        tokio::task::spawn_local(crate::run::restart(["agent"].into_iter()));
        Answer::of(&Accepted { message: "these authorities are trusted from now on".into() })
    }

    async fn cordon(&self, caller: &Caller, node: &str, body: &[u8]) -> Answer {
        let CordonRequest { unschedulable } = match document(body) {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        let message = if unschedulable { "takes no new pods" } else { "takes pods again" };
        let message = format!("{node} {message}");
        let done = roll::cordon(&self.api, node, unschedulable).await;
        if done.is_ok() {
            say(format!("{message}; asked by {} ({})", caller.name, caller.organization));
        }
        rolled(done.map(|()| Accepted { message }))
    }

    fn take_upgrade(&self, caller: &Caller, query: &str, body: &[u8]) -> Answer {
        let Some(("signature", signature)) = query.split_once('=') else {
            return bad(&format!("{query:?}: signature=HEX is wanted"));
        };
        accepted(self.upgrades.begin(&self.facts, &self.slots, caller, body, signature))
    }

    async fn upgrade_chunk(&self, digest: &str, query: &str, body: &[u8]) -> Answer {
        if query == "last=1" {
            return accepted(self.upgrades.finish(digest));
        }
        if let Some(from) = query.strip_prefix("from=") {
            return match from.parse() {
                Ok(from) => accepted(self.upgrades.fetch(digest, from)),
                Err(_) => bad(&format!("{query:?}: from=IP:PORT is wanted")),
            };
        }
        let asked = query.strip_prefix("file=").and_then(|rest| rest.split_once("&chunk="));
        let Some((file, Ok(number))) = asked.map(|(file, number)| (file, number.parse())) else {
            return bad(&format!("{query:?}: file=NAME&chunk=NUMBER, from=IP:PORT or last=1 is wanted"));
        };
        accepted(self.upgrades.chunk(digest, file, number, body).await.map(|()| "written".into()))
    }

    fn status(&self) -> Answer {
        let member = self.member.as_ref().and_then(|member| member.cluster());
        let mut init = init_status(&self.root);
        init.shutting_down |= self.member.as_ref().is_some_and(|member| member.is_going());
        Answer::of(&AgentStatus {
            version: VERSION,
            image: self.facts.image.version.clone(),
            cluster_id: member.or_else(|| self.facts.seed.cluster_id.clone()),
            node: self.status.current(),
            init,
            certificates: certificates::ends(&self.root),
            slots: self.slots.current(),
        })
    }
}

fn rolled<T: Serialize>(outcome: Result<T, RollError>) -> Answer {
    match outcome {
        Ok(document) => Answer::of(&document),
        Err(error @ RollError::Held { .. }) => Answer::refusal(StatusCode::CONFLICT, error.to_string()),
        Err(error @ RollError::Api(_)) => Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn accepted(outcome: Result<String, UpgradeError>) -> Answer {
    match outcome {
        Ok(message) => Answer::of(&Accepted { message }),
        Err(error) => Answer::refusal(StatusCode::CONFLICT, error.to_string()),
    }
}

/// init's word; an empty one where there is none.
pub fn init_status(root: &Path) -> InitStatus {
    let text = std::fs::read(under(root, paths::INIT_STATUS_FILE));
    text.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn read<T>(what: &str, found: std::io::Result<T>, answer: impl FnOnce(T) -> Answer) -> Answer {
    match found {
        Ok(found) => answer(found),
        Err(error) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{what}: {error}")),
    }
}

/// The document in a body; nothing stands for an empty object.
fn document<T: DeserializeOwned>(body: &[u8]) -> Result<T, Answer> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| bad(&error))
}

fn bad(error: &dyn Display) -> Answer {
    Answer::refusal(StatusCode::BAD_REQUEST, error.to_string())
}

async fn learner(member: &etcd::Member, caller: &Caller, body: &[u8]) -> Answer {
    let request = match document(body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    match member.admit(&caller.name, &request).await {
        Ok(admission) => Answer::of(&admission),
        Err(reason) => Answer::refusal(StatusCode::CONFLICT, reason),
    }
}

async fn hold(member: &Rc<etcd::Member>, body: &[u8]) -> Answer {
    let HoldRequest { leader } = match document(body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    match member.hold(leader).await {
        Ok(message) => Answer::of(&Accepted { message }),
        Err(reason) => Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

fn order(member: &etcd::Member, caller: &Caller, body: &[u8]) -> Answer {
    let request: OrderRequest = match document(body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let new =
        request.new.map(|new| joining::New { abandons: new.abandons, unknown: new.unknown, restore: new.restore });
    match member.order(&caller.name, request.without, new) {
        Ok(order) => Answer::of(&OrderAnswer {
            number: order.number,
            members: order.members.into_keys().collect(),
            without: order.without,
        }),
        Err(reason) => Answer::refusal(StatusCode::CONFLICT, reason.to_string()),
    }
}

/// A piece of a snapshot, or the word that all are sent.
fn restore(root: &Path, digest: &str, query: &str, body: &[u8]) -> Answer {
    let outcome = match query.split_once('=') {
        Some(("offset", offset)) => match offset.parse() {
            Ok(offset) => etcd::write_piece(root, digest, offset, body),
            Err(_) => return bad(&format!("{query}: offset=BYTES or last=1 is wanted")),
        },
        Some(("last", "1")) => etcd::finish(root, digest),
        _ => return bad(&format!("{query:?}: offset=BYTES or last=1 is wanted")),
    };
    match outcome {
        Ok(()) => Answer::of(&Accepted { message: "kept".into() }),
        Err(error) => Answer::refusal(StatusCode::CONFLICT, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;
    use crate::http::{self, Connection};
    use crate::server;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::{Method, Request};
    use hyper_util::rt::TokioIo;
    use pki::{Authority, AuthorityName, LeafRequest};
    use serde_json::Value;
    use spec::agent::{organization, path};
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;
    use time::OffsetDateTime;
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::ClientConfig;

    /// A machine that answers on loopback, as a node.
    struct Machine {
        root: tempfile::TempDir,
        authority: Authority,
        address: SocketAddr,
    }

    async fn machine() -> Machine {
        let now = OffsetDateTime::now_utc();
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = under(root.path(), path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let service = r#"{"name": "etcd", "state": "ready", "pid": 1, "restarts": 0, "since-ms": 1, "detail": null}"#;
        put(paths::INIT_STATUS_FILE, &format!("{{\"services\": [{service}]}}"));
        put("/var/log/etcd.log", "a word\n");
        let facts = Rc::new(example(now));
        let authority = facts.secrets.authority(AuthorityName::Machine).unwrap();
        let own = LeafRequest::server("m1", vec!["m1".into()], Vec::new(), time::Duration::days(1));
        let own = authority.issue(&own, now).unwrap();
        let tls = http::tls(authority.certificate(), &own.certificate, &own.key).unwrap();
        let handler = Rc::new(NodeApi {
            root: root.path().to_path_buf(),
            facts,
            status: Rc::new(Status::new(Default::default())),
            member: None,
            api: Rc::new(Api::new(([127, 0, 0, 1], 9).into(), "localhost", tls)),
            upgrades: Upgrades::new(root.path()),
            slots: Rc::default(),
        });
        let listener = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = server::tls(authority.certificate(), &own.certificate, &own.key).unwrap();
        tokio::task::spawn_local(server::serve(listener, tls, handler));
        Machine { root, authority, address }
    }

    impl Machine {
        async fn ask(&self, organization: &str, method: Method, path: &str, body: &str) -> (u16, Vec<u8>) {
            let request = LeafRequest::client("jo", Some(organization), time::Duration::HOUR);
            let leaf = self.authority.issue(&request, OffsetDateTime::now_utc()).unwrap();
            let tls = http::tls(self.authority.certificate(), &leaf.certificate, &leaf.key).unwrap();
            let connection = Connection::tls(self.address, "m1", tls).await.unwrap();
            let request = Request::builder().method(method).uri(format!("https://m1{path}"));
            let request = request.body(Full::new(body.to_owned().into())).unwrap();
            let (code, body) = connection.exchange(request, Duration::from_secs(5)).await.unwrap();
            (code, body.to_vec())
        }

        /// The same as the command line does it: HTTP/1.1.
        async fn ask_simply(&self, path: &str) -> (u16, Vec<u8>) {
            let request = LeafRequest::client("jo", Some(organization::READER), time::Duration::HOUR);
            let leaf = self.authority.issue(&request, OffsetDateTime::now_utc()).unwrap();
            let tls = http::tls(self.authority.certificate(), &leaf.certificate, &leaf.key).unwrap();
            let mut tls = ClientConfig::clone(&tls);
            tls.alpn_protocols.clear();
            let stream = TcpStream::connect(self.address).await.unwrap();
            let stream = TlsConnector::from(Arc::new(tls)).connect("m1".try_into().unwrap(), stream).await.unwrap();
            let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::task::spawn_local(driver);
            let request = Request::get(path).header("host", "m1").body(Full::<Bytes>::default()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let code = answer.status().as_u16();
            (code, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
        }

        async fn reason(&self, organization: &str, method: Method, path: &str, body: &str) -> (u16, String) {
            let (code, body) = self.ask(organization, method, path, body).await;
            let document: Value = serde_json::from_slice(&body).unwrap();
            (code, document["reason"].as_str().unwrap().to_owned())
        }
    }

    #[test]
    fn callers_get_what_their_certificate_says_and_no_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let machine = machine().await;
            let (code, body) = machine.ask(organization::READER, Method::GET, path::STATUS, "").await;
            let status: AgentStatus = serde_json::from_slice(&body).unwrap();
            assert_eq!((code, status.init.services[0].name.as_str()), (200, "etcd"));
            let log = format!("{}?lines=5", path::log("etcd"));
            assert_eq!(machine.ask(organization::READER, Method::GET, &log, "").await, (200, b"a word\n".to_vec()));
            assert_eq!(machine.ask_simply(&log).await, (200, b"a word\n".to_vec()));
            assert_eq!(machine.ask_simply("/v1/logs/secret").await.0, 404);
            for (organization, method, path) in [
                (organization::JOIN, Method::GET, path::STATUS),
                (organization::NODE, Method::GET, path::DMESG),
                (organization::READER, Method::POST, path::REBOOT),
                (organization::OPERATOR, Method::POST, path::RESET),
                (organization::OPERATOR, Method::POST, path::ETCD_ORDER),
                (organization::MASTER, Method::POST, path::REBOOT),
            ] {
                let (code, reason) = machine.reason(organization, method, path, "").await;
                assert_eq!((code, reason.contains(organization)), (403, true), "{path}: {reason}");
            }
            let (code, reason) = machine.reason(organization::READER, Method::GET, path::ETCD_MEMBERS, "").await;
            assert_eq!((code, reason.as_str()), (404, "m1 is no master: /v1/etcd/members is for masters"));
            assert_eq!(machine.reason(organization::ADMIN, Method::GET, "/v2/status", "").await.0, 404);
            drop(machine.root);
        });
    }

    #[test]
    fn a_reset_names_the_machine_and_a_wrong_body_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let machine = machine().await;
            let reset = async |body: &str| machine.reason(organization::ADMIN, Method::POST, path::RESET, body).await;
            assert_eq!(
                reset("{\"name\": \"m2\"}").await,
                (409, "this machine is m1, not m2: nothing was reset".into())
            );
            assert_eq!(reset("").await.0, 400);
            let body = "{\"force\": true}";
            let (code, reason) = machine.reason(organization::OPERATOR, Method::POST, path::REBOOT, body).await;
            assert_eq!((code, reason.contains("force is for imgbuild:admin")), (403, true), "{reason}");
            let (code, reason) = machine.reason(organization::OPERATOR, Method::POST, path::SHUTDOWN, "").await;
            assert_eq!((code, reason.starts_with("asking init: ")), (500, true), "{reason}");
        });
    }
}
