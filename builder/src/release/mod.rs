//! Releases: the key that bundles are signed with, and bundles.

mod bundle;
mod keys;

pub use self::bundle::{Bundle, write};
pub use keys::{KeyPaths, new_key, public_key, release_key};
