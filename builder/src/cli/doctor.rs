//! `imgbuild doctor`: what the host lacks.

use super::{print, print_json};
use crate::doctor::{Need, State, examine};
use crate::error::{Error, Result};
use crate::request::Context;

pub(super) fn execute(context: &Context) -> Result<()> {
    let checks = examine(&context.project, context.mirror.as_deref());
    if context.json {
        let document = serde_json::to_value(&checks);
        print_json(&document.map_err(|error| Error::because("the findings cannot be shown", error))?)?;
    } else {
        for check in &checks {
            let word = match (check.state, check.need) {
                (State::Ok, _) => "ok",
                (State::Missing, Need::Needed) => "MISSING",
                (State::Missing, Need::Useful) => "absent",
            };
            print(&format!("{word:<8} {}: {}\n", check.name, check.found))?;
            if let Some(command) = &check.mend {
                print(&format!("         -> {command}\n"))?;
            }
        }
    }
    let missing: Vec<&str> = checks.iter().filter(|check| check.is_serious()).map(|check| check.name).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::failure(format!("this host lacks: {}", missing.join(", ")))),
    }
}
