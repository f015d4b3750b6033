//! QEMU's command line while it is put together.

use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// The list under construction; the machine's name is for error messages.
pub(crate) struct Arguments<'a> {
    machine: &'a str,
    pub(crate) list: Vec<String>,
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(machine: &'a str) -> Arguments<'a> {
        Arguments { machine, list: Vec::new() }
    }

    pub(crate) fn flag(&mut self, flag: &str) {
        self.list.push(flag.into());
    }

    pub(crate) fn option(&mut self, flag: &str, value: impl Into<String>) {
        self.list.push(flag.into());
        self.list.push(value.into());
    }

    pub(crate) fn json(&mut self, flag: &str, value: &Value) {
        self.option(flag, value.to_string());
    }

    pub(crate) fn path(&self, path: &Path) -> Result<String> {
        path.to_str().map(str::to_owned).ok_or_else(|| Error::Configuration {
            machine: self.machine.into(),
            problem: format!("{}: the path is not UTF-8, which QEMU's options need: rename it", path.display()),
        })
    }
}

/// QEMU's option syntax: a comma within a value is written twice.
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}
