//! Where the parts of an image come from.

pub mod cargo;
pub mod deb;
pub mod file;
pub mod go;
pub mod url;
