//! The messages of containerd's content and images services and of the kubelet's CRI v1 that the
//! agent uses, field numbers as in containerd's api/services and k8s.io/cri-api. Fields that the
//! agent neither writes nor reads are left out, as protobuf allows.

use prost::Message;
use std::collections::HashMap;

/// containerd's socket; it serves its own services and CRI.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// The namespace of Kubernetes' images.
pub const NAMESPACE: (&str, &str) = ("containerd-namespace", "k8s.io");

pub const CONTENT_WRITE: &str = "containerd.services.content.v1.Content/Write";
pub const CONTENT_ABORT: &str = "containerd.services.content.v1.Content/Abort";
pub const IMAGES_GET: &str = "containerd.services.images.v1.Images/Get";
pub const IMAGES_CREATE: &str = "containerd.services.images.v1.Images/Create";
pub const IMAGES_UPDATE: &str = "containerd.services.images.v1.Images/Update";
pub const LEASES_CREATE: &str = "containerd.services.leases.v1.Leases/Create";
pub const LEASES_DELETE: &str = "containerd.services.leases.v1.Leases/Delete";
pub const CRI_LIST_SANDBOXES: &str = "runtime.v1.RuntimeService/ListPodSandbox";
pub const CRI_STOP_SANDBOX: &str = "runtime.v1.RuntimeService/StopPodSandbox";
pub const CRI_LIST_CONTAINERS: &str = "runtime.v1.RuntimeService/ListContainers";
pub const CRI_STOP_CONTAINER: &str = "runtime.v1.RuntimeService/StopContainer";

#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// `WriteContentRequest`
#[derive(Clone, PartialEq, Message)]
pub struct Write {
    /// 1 write, 2 commit.
    #[prost(int32, tag = "1")]
    pub action: i32,
    #[prost(string, tag = "2")]
    pub reference: String,
    #[prost(int64, tag = "3")]
    pub total: i64,
    #[prost(string, tag = "4")]
    pub expected: String,
    #[prost(int64, tag = "5")]
    pub offset: i64,
    #[prost(bytes = "vec", tag = "6")]
    pub data: Vec<u8>,
    #[prost(map = "string, string", tag = "7")]
    pub labels: HashMap<String, String>,
}

pub const COMMIT: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub struct Written {
    #[prost(int64, tag = "4")]
    pub offset: i64,
    #[prost(string, tag = "6")]
    pub digest: String,
}

/// `AbortRequest`
#[derive(Clone, PartialEq, Message)]
pub struct Reference {
    #[prost(string, tag = "1")]
    pub reference: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Descriptor {
    #[prost(string, tag = "1")]
    pub media_type: String,
    #[prost(string, tag = "2")]
    pub digest: String,
    #[prost(int64, tag = "3")]
    pub size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(map = "string, string", tag = "2")]
    pub labels: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub target: Option<Descriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ImageName {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Requests and answers of the images service that hold one image.
#[derive(Clone, PartialEq, Message)]
pub struct OneImage {
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Lease {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(map = "string, string", tag = "3")]
    pub labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LeaseId {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Sandbox>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sandbox {
    #[prost(string, tag = "1")]
    pub id: String,
    /// 0 ready, 1 not ready.
    #[prost(int32, tag = "3")]
    pub state: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SandboxId {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Containers {
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(string, tag = "1")]
    pub id: String,
    /// 1 running.
    #[prost(int32, tag = "6")]
    pub state: i32,
    #[prost(map = "string, string", tag = "9")]
    pub annotations: HashMap<String, String>,
}

pub const RUNNING: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct StopContainer {
    #[prost(string, tag = "1")]
    pub id: String,
    /// Seconds between SIGTERM and SIGKILL.
    #[prost(int64, tag = "2")]
    pub timeout: i64,
}
