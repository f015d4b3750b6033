//! A cluster definition of a story's own, and the seeds that come out of it.

use crate::{Failure, Lab, Result};
use imgbuild::cluster::{ADMIN_KUBECONFIG, DEFINITION_FILE, Definition, NewCluster, create, seed_files};
use imgbuild::project::Project;
use spec::cluster::Role;
use std::path::PathBuf;
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
        let path = folder.join(DEFINITION_FILE);
        std::fs::write(&path, format!("name = {NAME:?}\n{machines}")).map_err(Failure::file(&path, "write"))?;
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(Failure::file(&path, "write"))?;
        }
        let definition = Definition::read(&folder, NAME).map_err(Failure::builder)?;
        let problems = definition.check(now).problems;
        match imgbuild::error::Error::of_problems(NAME, problems) {
            Some(error) => Err(Failure::builder(error)),
            None => Ok(StoryCluster { definition }),
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

    /// The seed of the node `machine`, with its credential to join.
    ///
    /// # Errors
    /// The definition has no such node.
    pub fn node_seed(&self, machine: &str) -> Result<seed::Files> {
        let seed = seed_files(&self.definition, Some(machine), Role::Node, OffsetDateTime::now_utc());
        seed.map_err(Failure::builder)
    }

    pub(crate) fn definition(&self) -> &Definition {
        &self.definition
    }

    /// `imgbuild` with these arguments, by an operator who holds the cluster's secrets.
    pub(crate) fn imgbuild(&self, arguments: &str) -> Result {
        let project = self.project()?.display().to_string();
        let words = ["imgbuild", "--quiet", "--project", &project].into_iter().chain(arguments.split(' '));
        imgbuild::cli::run(words.collect::<Vec<_>>()).map_err(Failure::builder)
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

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.definition.folder.join(ADMIN_KUBECONFIG)
    }
}
