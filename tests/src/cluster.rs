//! A cluster definition of a story's own, and the seeds that come out of it.

use crate::{Failure, Lab, Result};
use imgbuild::cluster::{ADMIN_KUBECONFIG, Access, DEFINITION_FILE, Definition, NewCluster};
use imgbuild::cluster::{create, seed_files, user_kubeconfig};
use imgbuild::project::Project;
use spec::cluster::Role;
use std::path::PathBuf;
use std::process::Command;
use time::OffsetDateTime;

const NAME: &str = "lab";

/// A definition with its secrets, below the story's folder.
#[derive(Debug)]
pub struct StoryCluster {
    definition: Definition,
}

impl StoryCluster {
    /// A cluster `lab` of these `[[machine]]` tables, sound as the builder judges it.
    ///
    /// # Errors
    /// The definition is not sound.
    pub fn new(lab: &Lab, machines: &str) -> Result<StoryCluster> {
        StoryCluster::with_files(lab, machines, &[])
    }

    /// The same with files (name, text) beside the definition.
    ///
    /// # Errors
    /// The definition is not sound.
    pub fn with_files(lab: &Lab, machines: &str, files: &[(&str, &str)]) -> Result<StoryCluster> {
        let work = lab.folder().to_owned();
        let project = Project { root: work.clone(), cache: work.join("cache"), work };
        let now = OffsetDateTime::now_utc();
        let folder = create(&project, &NewCluster::single(NAME), now).map_err(Failure::builder)?;
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(Failure::file(&path, "write"))?;
        }
        let definition = Definition::read(&folder, NAME).map_err(Failure::builder)?;
        let mut cluster = StoryCluster { definition };
        cluster.redefine(machines)?;
        Ok(cluster)
    }

    /// Other `[[machine]]` tables from now on.
    ///
    /// # Errors
    /// The definition is not sound.
    pub fn redefine(&mut self, machines: &str) -> Result {
        let path = self.definition.folder.join(DEFINITION_FILE);
        std::fs::write(&path, format!("name = {NAME:?}\n{machines}")).map_err(Failure::file(&path, "write"))?;
        self.read_again()?;
        match imgbuild::error::Error::of_problems(NAME, self.definition.check(OffsetDateTime::now_utc()).problems) {
            Some(error) => Err(Failure::builder(error)),
            None => Ok(()),
        }
    }

    /// What the operator's commands have written into the definition's folder meanwhile.
    ///
    /// # Errors
    /// The definition cannot be read.
    pub fn read_again(&mut self) -> Result {
        self.definition = Definition::read(&self.definition.folder, NAME).map_err(Failure::builder)?;
        Ok(())
    }

    /// The seed of a master: `machine` binds it to one of the definition.
    pub(crate) fn master_seed(&self, machine: Option<&str>) -> Result<seed::Files> {
        let seed = seed_files(&self.definition, machine, Role::Master, OffsetDateTime::now_utc());
        seed.map_err(Failure::builder)
    }

    /// Whether the definition has a machine of this name.
    pub(crate) fn lists(&self, machine: &str) -> bool {
        self.definition.cluster.lists(machine)
    }

    /// The seed of the node `machine`, or of any node, with its credential to join.
    ///
    /// # Errors
    /// The definition has no such node.
    pub fn node_seed(&self, machine: Option<&str>) -> Result<seed::Files> {
        let seed = seed_files(&self.definition, machine, Role::Node, OffsetDateTime::now_utc());
        seed.map_err(Failure::builder)
    }

    pub(crate) fn definition(&self) -> &Definition {
        &self.definition
    }

    /// `imgbuild` with these arguments, by an operator who holds the cluster's secrets.
    ///
    /// # Errors
    /// What the command says.
    pub fn imgbuild(&self, arguments: &str) -> Result {
        imgbuild::cli::run(self.words(arguments)?).map_err(Failure::builder)
    }

    /// The same by another operator: a process of its own, of the program that cargo has built beside the stories.
    ///
    /// # Errors
    /// There is no such program.
    pub fn imgbuild_of_another(&self, arguments: &str) -> Result<Command> {
        let words = self.words(arguments)?;
        let own = std::env::current_exe().map_err(Failure::file("/proc/self/exe", "read"))?;
        let program = own.ancestors().nth(2).map(|folder| folder.join(&words[0])).filter(|program| program.exists());
        let missing = || Failure::Missing("no imgbuild beside the stories: cargo build --release --workspace".into());
        let mut command = Command::new(program.ok_or_else(missing)?);
        command.args(&words[1..]);
        Ok(command)
    }

    fn words(&self, arguments: &str) -> Result<Vec<String>> {
        let project = self.project()?.display().to_string();
        let words = ["imgbuild", "--quiet", "--project", &project].into_iter().chain(arguments.split(' '));
        Ok(words.map(str::to_owned).collect())
    }

    /// A project folder for `imgbuild --project`: the workspace's with this cluster in it.
    fn project(&self) -> Result<PathBuf> {
        let work = self.definition.folder.parent().and_then(std::path::Path::parent);
        let folder = work.ok_or_else(|| Failure::Unexpected("the cluster's folder stands nowhere".into()))?;
        for part in ["profiles", "components", "overlays"] {
            let link = folder.join(part);
            if !link.exists() {
                std::os::unix::fs::symlink(crate::workspace().join(part), &link)
                    .map_err(Failure::file(&link, "make"))?;
            }
        }
        Ok(folder.to_owned())
    }

    /// An administrator's kubeconfig for a day that the host's clock does not say: the servers' certificates are
    /// not judged by it.
    ///
    /// # Errors
    /// No authority of the cluster lives then.
    pub fn kubeconfig_at(&self, moment: OffsetDateTime) -> Result<PathBuf> {
        let access = Access { user: "admin", group: Some("system:masters"), life: time::Duration::DAY, server: None };
        let kubeconfig = user_kubeconfig(&self.definition, &access, moment).map_err(Failure::builder)?;
        let judged = |line: &str| line.trim_start().starts_with("certificate-authority-data:");
        let lines = kubeconfig.lines().map(|line| match judged(line) {
            true => line.replace(line.trim_start(), "insecure-skip-tls-verify: true"),
            false => line.to_owned(),
        });
        let path = self.definition.folder.join("kubeconfig-at-another-time");
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).map_err(Failure::file(&path, "write"))?;
        Ok(path)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.definition.folder.join(ADMIN_KUBECONFIG)
    }
}
