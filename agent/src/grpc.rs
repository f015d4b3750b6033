//! gRPC calls (gRPC over HTTP/2, protocol specification of grpc.io) on an existing connection:
//! messages of five bytes of prefix and protobuf, the status in the trailers.

use crate::http::{Connection, HttpError};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use prost::Message;
use std::time::Duration;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The peer's own answer; `code` as in google.rpc.Code.
    #[error("{method}: {message} (code {code})")]
    Status { method: String, code: u32, message: String },
    #[error("{method}: {reason}")]
    Protocol { method: String, reason: String },
}

/// google.rpc.Code
pub const NOT_FOUND: u32 = 5;
/// google.rpc.Code
pub const ALREADY_EXISTS: u32 = 6;

impl GrpcError {
    /// The peer's status code, when it gave one.
    pub fn code(&self) -> Option<u32> {
        match self {
            GrpcError::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// One message there, one back. `metadata`: further headers.
pub async fn call<Q: Message, A: Message + Default>(
    connection: &Connection,
    method: &str,
    metadata: &[(&'static str, &str)],
    question: &Q,
    limit: Duration,
) -> Result<A, GrpcError> {
    let mut answers = stream(connection, method, metadata, std::slice::from_ref(question), limit).await?;
    answers.pop().ok_or_else(|| GrpcError::Protocol { method: method.into(), reason: "no message came back".into() })
}

/// Several messages there, several back.
pub async fn stream<Q: Message, A: Message + Default>(
    connection: &Connection,
    method: &str,
    metadata: &[(&'static str, &str)],
    questions: &[Q],
    limit: Duration,
) -> Result<Vec<A>, GrpcError> {
    let protocol = |reason: String| GrpcError::Protocol { method: method.into(), reason };
    let mut request = Request::post(format!("http://localhost/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(encode(questions))).map_err(|error| protocol(error.to_string()))?;
    let answer = connection.send(request, limit).await?;
    let headers = answer.headers().clone();
    let collected = tokio::time::timeout(limit, answer.into_body().collect())
        .await
        .map_err(|_| HttpError::Late { peer: connection.peer().into(), seconds: limit.as_secs() })?
        .map_err(|error| protocol(error.to_string()))?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    check_status(method, &headers, &trailers)?;
    decode(collected.to_bytes()).map_err(protocol)
}

fn encode<Q: Message>(messages: &[Q]) -> Bytes {
    let length = messages.iter().map(|message| 5 + message.encoded_len()).sum();
    let mut bytes = BytesMut::with_capacity(length);
    for message in messages {
        bytes.put_u8(0);
        bytes.put_u32(message.encoded_len() as u32);
        bytes.put(message.encode_to_vec().as_slice());
    }
    bytes.freeze()
}

fn decode<A: Message + Default>(mut bytes: Bytes) -> Result<Vec<A>, String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        if bytes.len() < 5 {
            return Err("a message is cut".into());
        }
        let prefix = bytes.split_to(5);
        if prefix[0] != 0 {
            return Err("a compressed message came back, none was asked for".into());
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if bytes.len() < length {
            return Err("a message is cut".into());
        }
        messages.push(A::decode(bytes.split_to(length)).map_err(|error| error.to_string())?);
    }
    Ok(messages)
}

/// The status stands in the trailers, or in the headers when there is nothing else.
fn check_status(method: &str, headers: &HeaderMap, trailers: &HeaderMap) -> Result<(), GrpcError> {
    let find = |name: &str| trailers.get(name).or_else(|| headers.get(name)).and_then(|value| value.to_str().ok());
    match find("grpc-status").map(str::parse) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => {
            let message = unescape(find("grpc-message").unwrap_or_default());
            Err(GrpcError::Status { method: method.into(), code, message })
        }
        _ => Err(GrpcError::Protocol { method: method.into(), reason: "the answer has no grpc-status".into() }),
    }
}

/// Percent-encoding of grpc-message.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Word {
        #[prost(string, tag = "1")]
        text: String,
    }

    #[test]
    fn messages_survive_their_framing_and_cuts_are_found() {
        let words = [Word { text: "a".into() }, Word { text: String::new() }, Word { text: "c".repeat(300) }];
        let bytes = encode(&words);
        assert_eq!(decode::<Word>(bytes.clone()).unwrap(), words);
        assert!(decode::<Word>(bytes.slice(..bytes.len() - 1)).is_err());
        assert!(decode::<Word>(Bytes::from_static(&[1, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn a_status_is_read_from_trailers_or_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert("grpc-message", "image%20\"x\" not found%".parse().unwrap());
        let error = check_status("m", &headers, &HeaderMap::new()).unwrap_err();
        assert_eq!(error.code(), Some(NOT_FOUND));
        assert!(error.to_string().contains("image \"x\" not found%"), "{error}");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        assert!(check_status("m", &HeaderMap::new(), &trailers).is_ok());
        assert!(check_status("m", &HeaderMap::new(), &HeaderMap::new()).is_err());
    }
}
