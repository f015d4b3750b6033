//! The Kubernetes API as JSON values: get, list, server-side apply, patch, watch. Kinds are looked
//! up in the API's own discovery, so that any manifest of a profile can be applied.

use crate::http::{Connection, HttpError};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Incoming};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio_rustls::rustls::ClientConfig;

/// Kubernetes' MicroTime.
pub const MICRO_TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Why the API did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The API's own refusal; `code` is the HTTP status.
    #[error("{what}: {message} (HTTP {code})")]
    Refused { what: String, code: u16, message: String },
    #[error("{what}: {reason}")]
    Content { what: String, reason: String },
}

impl ApiError {
    /// HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            ApiError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Field manager of everything that the agent applies.
pub const FIELD_MANAGER: &str = "imgbuild";
const LIMIT: Duration = Duration::from_secs(30);
/// The API ends a watch after this long; then it is begun anew from a list.
const WATCH_SECONDS: u64 = 300;

/// A client of one API server; the connection is made anew when it broke.
pub struct Api {
    address: SocketAddr,
    server_name: String,
    tls: Arc<ClientConfig>,
    connection: RefCell<Option<Connection>>,
    kinds: RefCell<HashMap<(String, String), Kind>>,
}

/// Where objects of a kind live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// `/api/v1` or `/apis/GROUP/VERSION`
    pub base: String,
    pub plural: String,
    pub namespaced: bool,
}

impl Kind {
    /// Path of one object.
    pub fn path(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{}/namespaces/{namespace}/{}/{name}", self.base, self.plural),
            None => format!("{}/{}/{name}", self.base, self.plural),
        }
    }
}

impl Api {
    /// `server_name`: what the server's certificate must say.
    pub fn new(address: SocketAddr, server_name: &str, tls: Arc<ClientConfig>) -> Api {
        Api {
            address,
            server_name: server_name.into(),
            tls,
            connection: RefCell::new(None),
            kinds: RefCell::new(HashMap::new()),
        }
    }

    async fn connection(&self) -> Result<Connection, HttpError> {
        if let Some(connection) = self.connection.borrow().as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let fresh = Connection::tls(self.address, &self.server_name, self.tls.clone()).await?;
        *self.connection.borrow_mut() = Some(fresh.clone());
        Ok(fresh)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .header("accept", "application/json")
            .header("user-agent", "imgbuild-agent")
            .header("content-type", content_type)
            .body(Full::new(body))
            .map_err(|error| ApiError::Content { what: path.into(), reason: error.to_string() })
    }

    /// Sends and gives status and body whatever the status is.
    async fn raw(&self, method: &str, path: &str, content_type: &str, body: Bytes) -> Result<(u16, Bytes), ApiError> {
        let request = self.request(method, path, content_type, body)?;
        let answer = self.connection().await?.exchange(request, LIMIT).await;
        if answer.is_err() {
            *self.connection.borrow_mut() = None;
        }
        Ok(answer?)
    }

    async fn json(&self, method: &str, path: &str, content_type: &str, body: Bytes) -> Result<Value, ApiError> {
        let what = format!("{method} {path}");
        let (code, bytes) = self.raw(method, path, content_type, body).await?;
        if !(200..300).contains(&code) {
            return Err(ApiError::Refused { what, code, message: refusal(&bytes) });
        }
        serde_json::from_slice(&bytes).map_err(|error| ApiError::Content { what, reason: error.to_string() })
    }

    /// GET of a health page: its text when it is 200.
    pub async fn health(&self, path: &str) -> Result<String, ApiError> {
        let (code, bytes) = self.raw("GET", path, "application/json", Bytes::new()).await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if code == 200 { Ok(text) } else { Err(ApiError::Refused { what: path.into(), code, message: text }) }
    }

    /// Whether the API server is ready. It says that it serves long before its own bootstrapping (RBAC among it) is
    /// done; the last of its checks to pass is asked for alone first, since the whole list reads from etcd each time.
    pub async fn is_ready(&self) -> bool {
        self.health("/readyz/poststarthook/rbac/bootstrap-roles").await.is_ok() && self.health("/readyz").await.is_ok()
    }

    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.json("GET", path, "application/json", Bytes::new()).await
    }

    /// `None` when it does not exist.
    pub async fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an object; refused with 409 when it exists.
    pub async fn post(&self, collection: &str, value: &Value) -> Result<Value, ApiError> {
        self.json("POST", collection, "application/json", Bytes::from(value.to_string())).await
    }

    pub async fn put(&self, path: &str, value: &Value) -> Result<Value, ApiError> {
        self.json("PUT", path, "application/json", Bytes::from(value.to_string())).await
    }

    /// Takes an object away; one that is not there is no error.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        match self.json("DELETE", path, "application/json", Bytes::new()).await {
            Err(error) if error.code() != Some(404) => Err(error),
            _ => Ok(()),
        }
    }

    /// JSON merge patch (RFC 7386).
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value, ApiError> {
        self.json("PATCH", path, "application/merge-patch+json", Bytes::from(patch.to_string())).await
    }

    /// Strategic merge patch of a status.
    pub async fn patch_status(&self, path: &str, patch: &Value) -> Result<(), ApiError> {
        let content_type = "application/strategic-merge-patch+json";
        self.json("PATCH", path, content_type, Bytes::from(patch.to_string())).await.map(drop)
    }

    /// Server-side apply of one object, as its owner by force.
    pub async fn apply(&self, object: &Value) -> Result<(), ApiError> {
        let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let what = || field("/metadata/name").unwrap_or("an object without a name").to_string();
        let missing = |name: &str| ApiError::Content { what: what(), reason: format!("{name} is missing") };
        let version = field("/apiVersion").ok_or_else(|| missing("apiVersion"))?;
        let kind = self.kind(version, field("/kind").ok_or_else(|| missing("kind"))?).await?;
        let name = field("/metadata/name").ok_or_else(|| missing("metadata.name"))?;
        let namespace = field("/metadata/namespace").unwrap_or("default");
        let path = format!("{}?fieldManager={FIELD_MANAGER}&force=true", kind.path(Some(namespace), name));
        // Every JSON text is a YAML text.
        self.json("PATCH", &path, "application/apply-patch+yaml", Bytes::from(object.to_string())).await.map(drop)
    }

    /// Looks a kind up, `apps/v1` and `Deployment`; remembered once found.
    pub async fn kind(&self, version: &str, kind: &str) -> Result<Kind, ApiError> {
        let key = (version.to_string(), kind.to_string());
        if let Some(known) = self.kinds.borrow().get(&key) {
            return Ok(known.clone());
        }
        let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let resources = self.get(&base).await?;
        let found = find_kind(&base, &resources, kind).ok_or_else(|| ApiError::Content {
            what: format!("{version} {kind}"),
            reason: "this API server does not know the kind (a CustomResourceDefinition may not be established yet)"
                .into(),
        })?;
        self.kinds.borrow_mut().insert(key, found.clone());
        Ok(found)
    }

    /// Begins a watch on a collection (`path` with its query, without `watch`) at the version that a
    /// list gave.
    pub async fn watch(&self, path: &str, resource_version: &str) -> Result<Watch, ApiError> {
        let sign = if path.contains('?') { '&' } else { '?' };
        let path = format!(
            "{path}{sign}watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={resource_version}"
        );
        let request = self.request("GET", &path, "application/json", Bytes::new())?;
        let answer = self.connection().await?.send(request, LIMIT).await?;
        let code = answer.status().as_u16();
        if code != 200 {
            return Err(ApiError::Refused { what: path, code, message: "the watch was refused".into() });
        }
        Ok(Watch { what: path, body: answer.into_body(), rest: Vec::new() })
    }
}

/// A running watch.
pub struct Watch {
    what: String,
    body: Incoming,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event (`type` and `object`); `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Value>, ApiError> {
        loop {
            if let Some(line) = take_line(&mut self.rest) {
                return match serde_json::from_slice(&line) {
                    Ok(event) => Ok(Some(event)),
                    Err(error) => Err(ApiError::Content { what: self.what.clone(), reason: error.to_string() }),
                };
            }
            let limit = Duration::from_secs(WATCH_SECONDS + 30);
            let frame = tokio::time::timeout(limit, self.body.frame()).await;
            match frame {
                Ok(Some(Ok(frame))) => self.rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(ApiError::Content { what: self.what.clone(), reason: error.to_string() });
                }
                Err(_) => return Ok(None),
            }
        }
    }
}

fn take_line(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.iter().position(|byte| *byte == b'\n')?;
    let mut line: Vec<u8> = buffer.drain(..=end).collect();
    line.pop();
    Some(line)
}

fn find_kind(base: &str, resources: &Value, kind: &str) -> Option<Kind> {
    let list = resources.get("resources")?.as_array()?;
    list.iter().find_map(|resource| {
        let plural = resource.get("name")?.as_str()?;
        // `pods/status` and the like are parts of an object.
        (resource.get("kind")?.as_str()? == kind && !plural.contains('/')).then(|| Kind {
            base: base.into(),
            plural: plural.into(),
            namespaced: resource.get("namespaced").and_then(Value::as_bool).unwrap_or(false),
        })
    })
}

/// The message of a `Status` object, or the text itself.
fn refusal(bytes: &[u8]) -> String {
    let status: Option<Value> = serde_json::from_slice(bytes).ok();
    let message = status.as_ref().and_then(|status| status.get("message")).and_then(Value::as_str);
    message.map_or_else(|| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned(), Into::into)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_is_the_resource_and_not_its_parts() {
        let resources = json!({"resources": [
            {"name": "deployments/status", "kind": "Deployment", "namespaced": true},
            {"name": "deployments", "kind": "Deployment", "namespaced": true},
        ]});
        let kind = find_kind("/apis/apps/v1", &resources, "Deployment").unwrap();
        assert_eq!(kind.path(Some("x"), "d"), "/apis/apps/v1/namespaces/x/deployments/d");
        assert_eq!(find_kind("/apis/apps/v1", &resources, "DaemonSet"), None);
        let cluster_wide = Kind { base: "/api/v1".into(), plural: "nodes".into(), namespaced: false };
        assert_eq!(cluster_wide.path(Some("default"), "n"), "/api/v1/nodes/n");
    }

    #[test]
    fn events_are_taken_by_line_however_they_arrive() {
        let mut buffer = b"{\"a\":".to_vec();
        assert_eq!(take_line(&mut buffer), None);
        buffer.extend(b"1}\n{\"b\":2}\n{");
        assert_eq!(take_line(&mut buffer).unwrap(), b"{\"a\":1}");
        assert_eq!(take_line(&mut buffer).unwrap(), b"{\"b\":2}");
        assert_eq!(take_line(&mut buffer), None);
    }

    #[test]
    fn a_refusal_says_the_apis_message() {
        assert_eq!(refusal(br#"{"kind":"Status","message":"no"}"#), "no");
        assert_eq!(refusal(b"plain"), "plain");
    }
}
