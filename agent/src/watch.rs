//! Waits for what init does in the folder by which it speaks with the agent (`paths::RUN_DIR`).

use crate::facts::under;
use rustix::fs::inotify::{self, WatchFlags};
use spec::paths;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

/// Ends when `happened` says so, which is asked once and then whenever a file of the folder comes, is replaced or
/// goes. A thread of its own waits for the events, since tokio offers no safe way to wait for inotify.
///
/// # Errors
/// Those of `happened`; `failed` makes one of what the system refuses.
pub async fn until<E: Send + 'static>(
    root: &Path,
    failed: impl Fn(io::Error) -> E + Clone + Send + 'static,
    happened: impl FnMut() -> Result<bool, E> + Send + 'static,
) -> Result<(), E> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let (folder, of_thread) = (under(root, paths::RUN_DIR), failed.clone());
    let watch = move || send.send(wait(&folder, &of_thread, happened));
    let builder = std::thread::Builder::new().name("watch".into()).stack_size(256 * 1024);
    builder.spawn(watch).map_err(&failed)?;
    receive.await.unwrap_or_else(|_| Err(failed(io::ErrorKind::BrokenPipe.into())))
}

fn wait<E>(
    folder: &Path,
    failed: &impl Fn(io::Error) -> E,
    mut happened: impl FnMut() -> Result<bool, E>,
) -> Result<(), E> {
    let of_kernel = |error: rustix::io::Errno| failed(error.into());
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(of_kernel)?;
    inotify::add_watch(&watch, folder, WatchFlags::MOVED_TO | WatchFlags::DELETE).map_err(of_kernel)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    // Asked after the watch began, so that no change falls between.
    while !happened()? {
        events.next().map_err(of_kernel)?;
    }
    Ok(())
}
