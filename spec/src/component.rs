//! A Go component: components/NAME/component.toml.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    pub name: String,
    /// What the operator sees; for `module` it is the version in go.mod and go.sum.
    pub version: String,
    /// Upstream module; absent for a program of our own.
    #[serde(default)]
    pub module: Option<String>,
    /// SPDX expression.
    pub license: String,
    /// Modules that the checksum database does not know (GONOSUMDB).
    #[serde(default)]
    pub gonosumdb: Vec<String>,
    #[serde(default)]
    pub output: Vec<Output>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Go package: a path inside our module or an import path.
    pub package: String,
    pub binary: String,
    #[serde(default)]
    pub tags: Vec<String>,
    /// Path in the root; absent for outputs that go into OCI images only.
    #[serde(default)]
    pub install: Option<String>,
    /// Symbolic links to `install`.
    #[serde(default)]
    pub links: Vec<String>,
    /// Built only when a profile names it.
    #[serde(default)]
    pub optional: bool,
    /// `-X` variables of the linker.
    #[serde(default)]
    pub stamp: BTreeMap<String, String>,
}
