//! The kernel of an image: out of Debian's package come the boot image, the modules that the profile
//! keeps with everything they depend on, their indexes, and the names of the sysctls that exist.

pub mod bzimage;
pub mod index;
pub mod initramfs;
pub mod modinfo;
pub mod package;
pub mod select;
pub mod sysctl;

pub use package::Package;
pub use select::{Module, Selection, Wanted, select};
pub use sysctl::{Known, SysctlNames};

use thiserror::Error;

/// Why a kernel package does not serve.
#[derive(Debug, Error)]
pub enum Error {
    #[error("kernel package: {0}")]
    Package(String),
    #[error("kernel image: {0}")]
    BzImage(String),
    #[error("kernel module {path}: {reason}")]
    Module { path: String, reason: String },
    #[error("kernel {release}: module `{module}` is needed by `{by}`, but neither a module file nor built in")]
    Dependency { release: String, module: String, by: String },
    #[error(
        "profile key kernel.{key}: `{module}` does not exist in kernel {release}, as a module or built in; correct the name, choose another kernel.package, or name it in kernel.absent where the image can do without"
    )]
    Unknown { key: &'static str, module: String, release: String },
    #[error("profile key kernel.absent: `{module}` is in kernel {release} ({found}); take the name out of the list")]
    Present { module: String, release: String, found: String },
    #[error(
        "profile key kernel.required: module `{module}` of kernel {release} is at {path}, but no glob of kernel.keep takes it in; add one, or take the name out of kernel.required"
    )]
    NotKept { module: String, release: String, path: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<Error>),
    #[error("profile key kernel.{key}: glob `{glob}`: {reason}")]
    Glob { key: &'static str, glob: String, reason: String },
    #[error(
        "profile key kernel.keep: none of `{globs}` matches a module of kernel {release} ({example} is one of its modules)"
    )]
    IdleGlobs { globs: String, release: String, example: String },
}

impl Error {
    /// Nothing, the one error, or all of them as one.
    fn of_all(mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => errors.pop().map_or(Ok(()), Err),
            _ => Err(Error::Several(errors)),
        }
    }
}

#[cfg(test)]
mod tests;
