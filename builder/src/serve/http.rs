//! HTTP for firmware (RFC 9110, ranges by tower-http): scripts and the images' files. Nothing here is secret.

use super::images::{Image, Served};
use super::machines::{Known, Machines, Signs, find};
use super::script;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use spec::cluster::{Cluster, Role};
use spec::netboot;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tower_http::services::ServeFile;

/// For a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is served to whom.
pub struct Site {
    pub cluster: Cluster,
    pub images: Vec<Image>,
    pub machines: Arc<Machines>,
    /// `http://192.0.2.1:8080`
    pub base: String,
    /// iPXE's programs by name, for UEFI's HTTP boot.
    pub programs: Arc<std::collections::BTreeMap<String, Bytes>>,
}

impl Site {
    pub fn image_of(&self, role: Role) -> Option<&Image> {
        self.images.iter().find(|image| image.role == role)
    }

    /// Whether a machine puts itself on a disk.
    pub fn installs(&self, known: &Known) -> bool {
        match known {
            Known::Listed(name, _) => self.cluster.machine(name).is_some_and(|machine| machine.install.is_some()),
            Known::Any => self.cluster.any_node.as_ref().is_some_and(|any| any.install.is_some()),
        }
    }
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, site: Arc<Site>) {
    loop {
        // A connection that could not be taken is its own end.
        if let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(answer_all(stream, peer, site.clone()));
        }
    }
}

async fn answer_all(stream: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(answer(&site, peer.ip(), request).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    // Whoever hangs up ends its own transfer.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(site: &Arc<Site>, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are answered\n");
    }
    let path = request.uri().path().to_owned();
    if path == script::MACHINE_PATH {
        return plain(StatusCode::OK, machine_script(site, peer, request.uri().query().unwrap_or_default()));
    }
    if path == super::FIRST_PATH {
        return plain(StatusCode::OK, script::first(&site.base));
    }
    if let Some(program) = site.programs.get(path.trim_start_matches('/')) {
        return bytes(program.clone());
    }
    if let Some(sha256) = path.strip_prefix(netboot::path::PAYLOAD) {
        let found = site.images.iter().find_map(|image| Some((image, image.payload(sha256)?)));
        let Some((image, file)) = found else {
            return plain(StatusCode::NOT_FOUND, "no image that is served has this file\n");
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        site.machines.fetches(peer, &name, &format!("{} {}", image.name, image.version));
        return sent(file, request).await.unwrap_or_else(|refusal| refusal);
    }
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let place = (parts.next(), parts.next(), parts.next());
    let (Some("images"), Some(image), Some(name)) = place else {
        return plain(StatusCode::NOT_FOUND, "no such file\n");
    };
    let image = site.images.iter().find(|found| found.name == image);
    match image.and_then(|image| image.file(name)) {
        None => plain(StatusCode::NOT_FOUND, "no such file\n"),
        Some(Served::Memory(archive)) => bytes(Bytes::from_owner(archive)),
        Some(Served::File(path)) => match sent(&path, request).await {
            Ok(response) => counted(site, peer, name, response),
            Err(refusal) => refusal,
        },
    }
}

/// A file, or the part of it that is asked for.
async fn sent(path: &Path, request: Request<Incoming>) -> std::result::Result<Response<Body>, Response<Body>> {
    match ServeFile::new(path).try_call(request).await {
        Ok(response) => Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync())),
        Err(error) => Err(plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{}: {error}\n", path.display()))),
    }
}

/// What iPXE is told of this machine.
fn machine_script(site: &Site, peer: IpAddr, query: &str) -> String {
    let signs = signs(query);
    let mac = signs.macs.first().cloned().unwrap_or_default();
    let known = find(&site.cluster, &signs, None);
    site.machines.starts(&mac, peer, known.as_ref().ok());
    let known = match known {
        Ok(known) => known,
        Err(reason) => {
            site.machines.note(&mac, &reason);
            return script::nothing(&format!("{mac}: {reason}"));
        }
    };
    let name = known.name(&mac);
    if site.machines.is_installed(name) {
        site.machines.note(&mac, "starts from its disk");
        return script::from_disk(name);
    }
    let Some(image) = site.image_of(known.role()) else {
        let reason = format!("no image for a {} is served", known.role().name());
        site.machines.note(&mac, &reason);
        return script::nothing(&reason);
    };
    site.machines.note(&mac, &format!("starts {} {}", image.name, image.version));
    script::start(&site.base, image, name, site.installs(&known))
}

/// `mac=52:54:00:12:34:56&serial=A%20B`
fn signs(query: &str) -> Signs {
    let mut signs = Signs::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "mac" => signs.macs.push(value.to_lowercase()),
            "serial" => signs.serial = Some(value.trim().to_owned()).filter(|serial| !serial.is_empty()),
            _ => {}
        }
    }
    signs
}

/// Shows how far a file is while it is sent.
fn counted(site: &Arc<Site>, peer: IpAddr, name: &str, response: Response<Body>) -> Response<Body> {
    let length = |name: header::HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
    };
    let size = length(header::CONTENT_LENGTH).unwrap_or(0);
    let (machines, name) = (site.machines.clone(), name.to_owned());
    let mut sent = 0;
    response.map(|body| {
        body.map_frame(move |frame| {
            let count = frame.data_ref().map_or(0, Bytes::len) as u64;
            sent += count;
            machines.sent(peer, &name, size, count);
            if sent == size {
                machines.through(peer, &name);
            }
            frame
        })
        .boxed_unsync()
    })
}

fn bytes(bytes: Bytes) -> Response<Body> {
    Response::new(Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync())
}

fn plain(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = bytes(Bytes::from(text.into()));
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ipxe_says_of_its_machine() {
        let wanted = Signs { macs: vec!["52:54:00:0a:00:01".into()], serial: Some("A B".into()) };
        assert_eq!(signs("mac=52:54:00:0A:00:01&serial=A%20B"), wanted);
        assert_eq!(signs("mac=52%3A54%3A00%3A0a%3A00%3A01&serial=").serial, None);
    }
}
