//! Cluster definitions: `clusters/NAME/` with cluster.toml, secrets/ and admin.kubeconfig.

mod check;
mod create;
mod secrets;
mod seed;

use crate::error::{Error, Problem, Result, Source};
use crate::places::Places;
use crate::project::Project;
use crate::request::Context;
use spec::cluster::{Cluster, Role};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;

pub use check::{Findings, is_label};
pub use create::{Master, NewCluster, create, write_kubeconfig};
pub use seed::seed_files;

/// The definition's file.
pub const DEFINITION_FILE: &str = "cluster.toml";
/// The secrets' folder, 0700.
pub const SECRETS_DIR: &str = "secrets";
/// The operator's access, 0600.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";
/// The cluster that a build makes when none is named and there is none.
pub const DEFAULT: &str = "default";

/// A definition as read.
#[derive(Debug, Clone)]
pub struct Definition {
    pub folder: PathBuf,
    pub source: Arc<Source>,
    pub cluster: Cluster,
    places: Places,
}

impl Definition {
    /// Reads `cluster.toml` of a folder; unknown keys, unknown roles and wrong types are refused here,
    /// everything else by [`Definition::check`].
    ///
    /// # Errors
    /// Bad input that points at the line.
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
        Ok(Definition { folder: folder.to_owned(), source, cluster, places })
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
    if !definition.cluster.machines.iter().any(|machine| machine.role == role) {
        let message = format!("the cluster {name} has no machine with the role {}", role.name());
        let help = format!(
            "add one to {}:\n[[machine]]\nname = \"{}-1\"\nrole = \"{}\"",
            definition.source.name,
            role.name(),
            role.name()
        );
        return Err(Error::bad_input(message).help(help));
    }
    Ok(definition)
}
