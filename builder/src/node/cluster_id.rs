//! The id of the cluster that came of a definition is kept beside it as soon as a command has seen
//! it, so that no stick written afterwards permits a second forming.

use super::survey::Survey;
use crate::cluster::{CLUSTER_ID_FILE, Definition, is_cluster_id};
use crate::error::{Error, Result};
use crate::scratch::write_file;

/// Writes the id where none was known, and says so. Masters of another cluster than the one that is
/// written down are a trouble.
///
/// # Errors
/// A failure when the file cannot be written.
pub fn learn_cluster_id(definition: &Definition, survey: &mut Survey) -> Result<Option<String>> {
    let Some(found) = serving_cluster(survey).map(str::to_owned) else { return Ok(None) };
    let path = definition.folder.join(CLUSTER_ID_FILE);
    match &definition.cluster_id {
        Some(known) if *known == found => Ok(None),
        Some(known) => {
            survey.troubles.push(format!(
                "{} says {known}, the masters are of {found}: if {known} was given up, write {found} into it",
                path.display()
            ));
            Ok(None)
        }
        None => {
            write_file(&path, format!("{found}\n").as_bytes(), 0o600)
                .map_err(|error| Error::io("write", &path, error))?;
            Ok(Some(format!("the cluster's id is {found}: kept in {}", path.display())))
        }
    }
}

/// Forgets the cluster that an operator has given up by its id, so that the next look at the machines learns the one
/// that came in its place. Returns what to tell the operator.
///
/// # Errors
/// The file that keeps the id cannot be removed.
pub fn forget_cluster_id<'a>(
    definition: &Definition,
    mut given_up: impl Iterator<Item = &'a String>,
) -> Result<Option<String>> {
    let Some(known) = definition.cluster_id.as_ref().filter(|known| given_up.any(|id| id == *known)) else {
        return Ok(None);
    };
    let path = definition.folder.join(CLUSTER_ID_FILE);
    std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
    Ok(Some(format!("{known} is given up: `imgbuild cluster status` keeps the new cluster's id; write seeds after it")))
}

/// The one cluster whose masters serve.
fn serving_cluster(survey: &Survey) -> Option<&str> {
    let mut ids = survey.serving().filter_map(|status| status.cluster_id.as_deref());
    let id = ids.next().filter(|id| is_cluster_id(id))?;
    ids.all(|other| other == id).then_some(id)
}
