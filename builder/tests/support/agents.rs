//! Stand-ins for machines' agents and BMCs: TLS as the real one's, answers as the test says.

use super::Project;
use pki::{Authority, LeafRequest};
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use time::{Duration, OffsetDateTime};

/// What was asked: the caller's O, `METHOD PATH`, the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub organization: String,
    pub request: String,
    pub body: String,
}

pub struct Agent {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Agent {
    /// The machine `name` of the cluster `lab`, until the test ends. `answer` gets `METHOD PATH`.
    pub fn start(project: &Project, name: &str, answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Agent {
        let read = |file: &str| std::fs::read_to_string(project.path(&format!("clusters/lab/secrets/{file}"))).unwrap();
        let authority = Authority::from_pem("machine", &read("machine.crt"), &read("machine.key")).unwrap();
        let request = LeafRequest::server(name, vec![name.into()], Vec::new(), Duration::DAY);
        let leaf = authority.issue(&request, OffsetDateTime::now_utc()).unwrap();
        let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(pem(authority.certificate())).unwrap();
        let provider = Arc::new(provider::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![pem(&leaf.certificate)], PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap())
            .unwrap();
        Agent::listen(config, move |request, _| answer(request))
    }

    /// A BMC, and the SHA-256 of its certificate. `answer` gets `METHOD PATH` and the body.
    pub fn bmc(answer: impl FnMut(&str, &str) -> (u16, String) + Send + 'static) -> (Agent, String) {
        let now = OffsetDateTime::now_utc();
        let request = LeafRequest::server("bmc", vec!["bmc".into()], Vec::new(), Duration::DAY);
        let leaf = Authority::new("vendor", now).unwrap().issue(&request, now).unwrap();
        let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let sha256 = ring::digest::digest(&ring::digest::SHA256, &certificate);
        let sha256 = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        (Agent::listen(config, answer), sha256)
    }

    fn listen(config: ServerConfig, mut answer: impl FnMut(&str, &str) -> (u16, String) + Send + 'static) -> Agent {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let agent = Agent { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = agent.asked.clone();
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A caller that does not trust us hangs up: that is for the test to see on its side.
                let one = serve(stream.unwrap(), config.clone(), &mut answer);
                asked.lock().unwrap().extend(one);
            }
        });
        agent
    }

    /// `NAME=IP:PORT`
    pub fn named(&self, name: &str) -> String {
        format!("{name}={}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    answer: &mut dyn FnMut(&str, &str) -> (u16, String),
) -> Option<Asked> {
    let mut reader = BufReader::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream));
    let mut head = Vec::new();
    while head.last().is_none_or(|line: &String| !line.trim_end().is_empty()) {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        head.push(line);
    }
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let request = head[0].rsplit_once(' ').unwrap().0.to_owned();
    // Whom a BMC talks to shows no certificate.
    let certificate = reader.get_ref().conn.peer_certificates().map(|certificates| certificates[0].clone());
    let organization = certificate
        .map(|certificate| pki::inspect_der("the caller", &certificate).unwrap().organizations.concat())
        .unwrap_or_default();
    let body = String::from_utf8(body).unwrap();
    let (code, text) = answer(&request, &body);
    let stream = reader.get_mut();
    write!(stream, "HTTP/1.1 {code} X\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n").ok()?;
    for line in text.split_inclusive('\n') {
        write!(stream, "{:x}\r\n{line}\r\n", line.len()).ok()?;
    }
    write!(stream, "0\r\n\r\n").ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()?;
    Some(Asked { organization, request, body })
}
