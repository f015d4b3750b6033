//! Debian packages: from the machine's mirror, by signed index and hash, to a tree of files.

pub mod control;
mod error;
pub mod index;
pub mod mirror;
pub mod package;
pub mod release;
pub mod solver;
#[cfg(test)]
mod tests;
pub mod version;

pub use error::Error;
pub use index::{Conditions, Index, Wanted};
pub use mirror::{Archive, Mirror, apt_proxy};
pub use package::{Control, Unpacked};
pub use release::Trust;

use crate::fetch::{self, Fetcher};
use crate::lock::{Lock, Locked};
use crate::progress::Unit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Fetches every package of a lock; paths in the lock's order. Hashes rule: no index is asked.
///
/// # Errors
/// The network, an altered package, or a version that has left the mirror.
pub fn fetch_packages(fetcher: &Fetcher, mirror: &Mirror, lock: &Lock) -> Result<Vec<PathBuf>, Error> {
    let requests: Vec<fetch::Request> = lock
        .packages
        .iter()
        .map(|package| fetch::Request {
            url: format!("{}/{}", mirror.base(package.archive), package.filename),
            sha256: package.sha256,
            size: Some(package.size),
            label: format!("{} {}", package.name, package.version),
        })
        .collect();
    fetcher.fetch_all("packages", &requests).map_err(|error| explain(fetcher, mirror, lock, &requests, error))
}

/// Turns a download's error into the package's.
fn explain(fetcher: &Fetcher, mirror: &Mirror, lock: &Lock, requests: &[fetch::Request], error: fetch::Error) -> Error {
    let url = match &error {
        fetch::Error::NotFound { url, .. }
        | fetch::Error::Truncated { url, .. }
        | fetch::Error::TooLarge { url, .. }
        | fetch::Error::Hash { url, .. }
        | fetch::Error::Status { url, .. } => url,
        _ => return error.into(),
    };
    let Some(package) = requests.iter().position(|request| request.url == *url).and_then(|at| lock.packages.get(at))
    else {
        return error.into();
    };
    if matches!(error, fetch::Error::NotFound { .. }) {
        let there = version_there(fetcher, mirror, lock, package);
        return Error::VersionGone {
            name: package.name.clone(),
            wanted: package.version.clone(),
            there,
            command: format!("imgbuild lock --update --profile {}", lock.profile),
        };
    }
    Error::Package { name: package.name.clone(), version: package.version.clone(), source: Box::new(error) }
}

/// What the mirror has of a package now, in words.
fn version_there(fetcher: &Fetcher, mirror: &Mirror, lock: &Lock, package: &Locked) -> String {
    let look = || -> Result<Option<String>, Error> {
        let trust = Trust::load(&[], &lock.debian.keys)?;
        let conditions = Conditions { trust: &trust, now: SystemTime::now(), allow_expired: true };
        let index = Index::load(fetcher, mirror, lock.debian.wanted(), &conditions)?;
        Ok(index.candidate(&package.name).map(|there| format!("version {}", there.version)))
    };
    match look() {
        Ok(Some(version)) => version,
        Ok(None) => "no version of it".to_owned(),
        Err(error) => format!("an index that could not be asked ({error})"),
    }
}

/// Unpacks every package of a lock, several at a time; in the lock's order.
///
/// # Errors
/// As [`package::unpack`], the first by the order of the lock.
pub fn unpack_packages(fetcher: &Fetcher, lock: &Lock, files: &[PathBuf]) -> Result<Vec<Unpacked>, Error> {
    let task = fetcher.progress().task("unpacking", lock.packages.len() as u64, Unit::Items);
    let slots: Vec<Mutex<Option<Result<Unpacked, Error>>>> = files.iter().map(|_| Mutex::new(None)).collect();
    let order = largest_first(lock, files.len());
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(files.len()) {
            scope.spawn(|| {
                while let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (package, file) = (&lock.packages[*at], &files[*at]);
                    let result = package::unpack(fetcher.cache(), file, &package.sha256, &package.name);
                    *slots[*at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                    task.advance(1);
                }
            });
        }
    });
    let results = slots.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    let unpacked = results.collect::<Result<Vec<Unpacked>, Error>>()?;
    task.done();
    Ok(unpacked)
}

/// The kernel first: the longest piece of work must not be the last to start.
fn largest_first(lock: &Lock, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count.min(lock.packages.len())).collect();
    order.sort_by_key(|at| std::cmp::Reverse(lock.packages[*at].size));
    order
}
