//! Cluster definitions: `clusters/NAME/` with cluster.toml, secrets/ and admin.kubeconfig.

mod access;
mod check;
mod create;
mod image;
mod manifests;
mod rotation;
mod schema;
mod secrets;
mod seed;
mod zones;

use crate::error::{Error, Problem, Result, Source};
use crate::places::Places;
use crate::project::Project;
use crate::request::Context;
use spec::cluster::{Cluster, Role};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;

pub use access::{Access, LONGEST_ACCESS, machine_authority, operator_credential, user_kubeconfig};
pub use check::{Findings, is_label};
pub use create::{Master, NewCluster, create, write_kubeconfig};
pub use image::{SeedOf, write_seed};
pub use rotation::{Step, next_step, take_step, trust_files, trusted};
pub use schema::schema;
pub(crate) use seed::find_machine;
use seed::seed_files_with_keys;
pub use seed::{bound_machine, seed_files};

/// The definition's file.
pub const DEFINITION_FILE: &str = "cluster.toml";
/// The secrets' folder, 0700.
pub const SECRETS_DIR: &str = "secrets";
/// The operator's access, 0600.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";
/// The id of the cluster that came of the definition, one line: it is absent until an operator's command
/// has learnt it. A seed made afterwards never forms another.
pub const CLUSTER_ID_FILE: &str = "cluster-id";
/// The cluster that a build makes when none is named and there is none.
pub const DEFAULT: &str = "default";

/// A definition as read.
#[derive(Debug, Clone)]
pub struct Definition {
    pub folder: PathBuf,
    pub source: Arc<Source>,
    pub cluster: Cluster,
    /// What [`CLUSTER_ID_FILE`] says.
    pub cluster_id: Option<String>,
    places: Places,
}

impl Definition {
    /// Reads `cluster.toml` and `cluster-id` of a folder; unknown keys, unknown roles and wrong types are refused here,
    /// everything else by [`Definition::check`].
    ///
    /// # Errors
    /// Bad input that points at the line, or names the file.
    pub fn read(folder: &Path, shown: &str) -> Result<Definition> {
        let path = folder.join(DEFINITION_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::bad_input(format!("no cluster definition {shown}/{DEFINITION_FILE}"))
                    .help("make one: imgbuild cluster new NAME")
            }
            _ => Error::io("read", &path, error),
        })?;
        let source = Source::new(&path, format!("{shown}/{DEFINITION_FILE}"), text);
        let cluster = toml::from_str(&source.text).map_err(|error| Problem::of_toml(&source, &error))?;
        let places = Places::of(&source);
        let cluster_id = read_cluster_id(folder, shown)?;
        Ok(Definition { folder: folder.to_owned(), source, cluster, cluster_id, places })
    }

    /// The definition of a name.
    ///
    /// # Errors
    /// As [`Definition::read`].
    pub fn of_name(project: &Project, name: &str) -> Result<Definition> {
        let folder = project.cluster(name);
        Definition::read(&folder, &project.display(&folder))
    }

    /// Everything that is wrong or will be soon, in the definition and its secrets.
    pub fn check(&self, now: OffsetDateTime) -> Findings {
        let mut findings = check::definition(&self.cluster, &self.places);
        let folder_name = self.folder.file_name().map(|name| name.to_string_lossy().into_owned());
        if folder_name.as_deref().is_some_and(|folder| folder != self.cluster.name) {
            let message = format!("the cluster is named {:?}, but its folder {:?}", self.cluster.name, self.folder);
            findings
                .problems
                .push(Problem::new(message).at(self.places.get("name"), "this name").help("give both one name"));
        }
        findings.extend(manifests::check(self));
        findings.extend(zones::check(self));
        findings.extend(secrets::check(&self.folder, &self.source.name, &self.cluster.name, now));
        findings
    }

    /// Fails on problems, reports warnings.
    ///
    /// # Errors
    /// Bad input with every problem.
    pub fn require_sound(&self, context: &Context, now: OffsetDateTime) -> Result<()> {
        let findings = self.check(now);
        for warning in &findings.warnings {
            context.progress.warn(warning);
        }
        Error::of_problems(format!("cluster {}", self.cluster.name), findings.problems).map_or(Ok(()), Err)
    }
}

/// The id is a word, since etcd takes it as its token. A file without one is no "not yet": taken for
/// that, it would let a second cluster form.
fn read_cluster_id(folder: &Path, shown: &str) -> Result<Option<String>> {
    let path = folder.join(CLUSTER_ID_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    let id = text.trim();
    if !is_cluster_id(id) {
        return Err(Error::bad_input(format!("{shown}/{CLUSTER_ID_FILE} holds no cluster's id"))
            .help("one word of letters, digits and - is wanted: bring the file back from a copy; remove it only when the cluster has never formed"));
    }
    Ok(Some(id.to_owned()))
}

/// Whether it is a word that etcd takes as its token.
pub fn is_cluster_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Says before the work begins what would stop it at its end: an image of `role` that the definition
/// has no machine for. A definition that does not exist is [`for_image`]'s to judge.
///
/// # Errors
/// As [`bound_machine`] and [`Definition::read`].
pub fn check_machine(context: &Context, name: &str, machine: Option<&str>, role: Role) -> Result<()> {
    match context.project.cluster(name).symlink_metadata() {
        Ok(_) => bound_machine(&Definition::of_name(&context.project, name)?, machine, role).map(drop),
        Err(_) => Ok(()),
    }
}

/// The definition for an image of this role, checked. For a master, the cluster `default` is made
/// when it does not exist: one master by DHCP.
///
/// # Errors
/// Bad input when another cluster does not exist, is unsound, or has no machine of the role.
pub fn for_image(context: &Context, name: &str, role: Role) -> Result<Definition> {
    let now = OffsetDateTime::now_utc();
    let folder = context.project.cluster(name);
    let exists = folder.symlink_metadata().is_ok();
    if !exists && name == DEFAULT && role == Role::Master {
        create(&context.project, &NewCluster::single(DEFAULT), now)?;
        context.progress.note(&format!("made a cluster of one master: {}", context.project.display(&folder)));
    }
    if !exists && (name != DEFAULT || role != Role::Master) {
        let message = format!("no cluster {name:?}: {} does not exist", context.project.display(&folder));
        return Err(Error::bad_input(message).help(format!("make it: imgbuild cluster new {name}")));
    }
    let definition = Definition::of_name(&context.project, name)?;
    definition.require_sound(context, now)?;
    let cluster = &definition.cluster;
    if !cluster.takes_any(role) && !cluster.machines.iter().any(|machine| machine.role == role) {
        return Err(no_machine(&definition, role));
    }
    Ok(definition)
}

fn no_machine(definition: &Definition, role: Role) -> Error {
    let (name, role) = (&definition.cluster.name, role.name());
    Error::bad_input(format!("the cluster {name} has no machine with the role {role}"))
        .help(format!("add one to {}:\n[[machine]]\nname = \"{role}-1\"\nrole = \"{role}\"", definition.source.name))
}
