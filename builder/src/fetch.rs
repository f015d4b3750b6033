//! Downloads into the cache: several at once, resumed after an interruption, tried again with growing
//! pauses, and never believed before the SHA-256 matches. `file://` URLs serve a vendored folder.

use crate::cache::{Cache, Digest, io_error};
use crate::progress::{Progress, Task, Unit};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Downloads at a time.
const THREADS: usize = 4;
/// Attempts that bring nothing before a download is given up.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; it doubles after each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A server that says nothing for this long is treated as gone.
const SILENCE: Duration = Duration::from_secs(30);

/// What goes wrong in a download. Each names the URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{label} is not in the cache, and --offline forbids to fetch it from {url}")]
    Offline { label: String, url: String },
    #[error(
        "{url}: no answer after {attempts} attempts ({reason}); is the network up, and is the mirror right? --mirror URL names another"
    )]
    Unreachable { url: String, attempts: u32, reason: String },
    #[error("{url}: the server does not have it (status {status})")]
    NotFound { url: String, status: u16 },
    #[error("{url}: the server answers with status {status}")]
    Status { url: String, status: u16 },
    #[error(
        "{url}: the download ends after {found} of {wanted} bytes, in {attempts} attempts; the part is kept, run the command again to go on"
    )]
    Truncated { url: String, found: u64, wanted: u64, attempts: u32 },
    #[error("{url}: larger than the {wanted} bytes that the index says")]
    TooLarge { url: String, wanted: u64 },
    #[error(
        "{url}: SHA-256 is {found}, wanted {wanted}: the file was altered, or the mirror is broken; nothing of it was used"
    )]
    Hash { url: String, wanted: Digest, found: Digest },
    #[error("{url}: wanted a URL that begins with http://, https:// or file://")]
    Scheme { url: String },
    #[error(transparent)]
    Cache(#[from] crate::cache::Error),
}

/// A file to fetch, known by its content.
#[derive(Debug, Clone)]
pub struct Request {
    pub url: String,
    pub sha256: Digest,
    /// Bytes, when known: a longer answer is refused early, and a shorter one is seen as cut.
    pub size: Option<u64>,
    /// What the operator reads: a package's name and version.
    pub label: String,
}

/// How to reach the outside.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The cache alone.
    pub offline: bool,
    /// Proxy for http URLs, when the environment names none (apt's setting).
    pub proxy: Option<String>,
    /// Pause before the second attempt; the tests shorten it.
    pub first_pause: Option<Duration>,
}

/// Fetches into one cache.
pub struct Fetcher {
    cache: Cache,
    progress: Progress,
    agent: ureq::Agent,
    offline: bool,
    first_pause: Duration,
}

impl Fetcher {
    pub fn new(cache: Cache, progress: Progress, options: Options) -> Self {
        let from_environment = ureq::Proxy::try_from_env();
        let proxy = from_environment.or_else(|| options.proxy.and_then(|proxy| ureq::Proxy::new(&proxy).ok()));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .proxy(proxy)
            .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let first_pause = options.first_pause.unwrap_or(FIRST_PAUSE);
        Fetcher { cache, progress, agent, offline: options.offline, first_pause }
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    pub fn offline(&self) -> bool {
        self.offline
    }

    /// A small file whose content is not known beforehand (a signed index), at most `maximum` bytes.
    /// The last answer is kept, and given again when offline.
    pub fn document(&self, url: &str, maximum: u64) -> Result<Vec<u8>, Error> {
        let kept = self.cache.root().join("index").join(Digest::of(url.as_bytes()).to_string());
        if self.offline {
            return fs::read(&kept).map_err(|_| Error::Offline { label: url.to_owned(), url: url.to_owned() });
        }
        let mut stalled = 0;
        let content = loop {
            match self.read_document(url, maximum) {
                Ok(content) => break content,
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Again(reason)) => {
                    stalled += 1;
                    self.pause_or_give_up(url, stalled, reason)?;
                }
            }
        };
        crate::cache::write_atomically(&kept, &content)?;
        Ok(content)
    }

    fn read_document(&self, url: &str, maximum: u64) -> Result<Vec<u8>, Attempt> {
        let mut body = self.open(url, 0)?;
        let mut content = Vec::new();
        let result = (&mut body.reader).take(maximum + 1).read_to_end(&mut content);
        result.map_err(|error| Attempt::Again(error.to_string()))?;
        if content.len() as u64 > maximum {
            return Err(Attempt::Fatal(Error::TooLarge { url: url.to_owned(), wanted: maximum }));
        }
        Ok(content)
    }

    /// All of them, several at a time; the paths come in the order of the requests. On the first error
    /// no further download starts.
    pub fn fetch_all(&self, label: &str, requests: &[Request]) -> Result<Vec<PathBuf>, Error> {
        let mut missing = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            if self.cache.find(&request.sha256, request.size)?.is_none() {
                missing.push(index);
            }
        }
        if !missing.is_empty() {
            let total = missing.iter().filter_map(|index| requests[*index].size).sum();
            let task = self.progress.task(label, total, Unit::Bytes);
            self.fetch_missing(requests, &missing, &task)?;
            task.done();
        }
        Ok(requests.iter().map(|request| self.cache.path(&request.sha256)).collect())
    }

    fn fetch_missing(&self, requests: &[Request], missing: &[usize], task: &Task) -> Result<(), Error> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let first_error = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if let Err(error) = self.fetch_counted(&requests[*index], task) {
                            stop.store(true, Ordering::Relaxed);
                            first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// One file, from the cache or the network.
    pub fn fetch(&self, request: &Request) -> Result<PathBuf, Error> {
        let mut paths = self.fetch_all(&request.label, std::slice::from_ref(request))?;
        Ok(paths.swap_remove(0))
    }

    fn fetch_counted(&self, request: &Request, task: &Task) -> Result<PathBuf, Error> {
        if self.offline {
            return Err(Error::Offline { label: request.label.clone(), url: request.url.clone() });
        }
        let _guard = self.cache.lock(&format!("blob {}", request.sha256))?;
        // Another build may have fetched it while this one waited for the lock.
        if let Some(path) = self.cache.find(&request.sha256, request.size)? {
            task.advance(request.size.unwrap_or(0));
            return Ok(path);
        }
        self.download(request, task)
    }

    fn download(&self, request: &Request, task: &Task) -> Result<PathBuf, Error> {
        let mut partial = Partial::open(self.cache.partial_path(&request.sha256))?;
        let inherited = partial.length > 0;
        task.advance(partial.length);
        let (mut stalled, mut restarted) = (0, false);
        loop {
            let before = partial.length;
            let attempt = self.continue_download(request, &mut partial, task);
            let complete = request.size.is_none_or(|size| partial.length == size);
            match attempt {
                Ok(()) if complete => {
                    let found = partial.digest();
                    if found == request.sha256 {
                        return Ok(self.cache.adopt(&partial.path, &found)?);
                    }
                    partial.restart()?;
                    // The old part may have come from another server's idea of the file: once more, from the start.
                    if !inherited || restarted {
                        partial.remove()?;
                        return Err(Error::Hash { url: request.url.clone(), wanted: request.sha256, found });
                    }
                    restarted = true;
                    continue;
                }
                Ok(()) => {}
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Again(reason)) if partial.length == before => {
                    stalled += 1;
                    self.pause_or_give_up(&request.url, stalled, reason)?;
                    continue;
                }
                Err(Attempt::Again(_)) => {}
            }
            // It ended early. An attempt that brought something does not count against the limit.
            stalled = if partial.length > before { 0 } else { stalled + 1 };
            if stalled >= ATTEMPTS {
                let wanted = request.size.unwrap_or(0);
                return Err(Error::Truncated {
                    url: request.url.clone(),
                    found: partial.length,
                    wanted,
                    attempts: stalled,
                });
            }
            std::thread::sleep(self.first_pause * 2u32.pow(stalled));
        }
    }

    fn pause_or_give_up(&self, url: &str, stalled: u32, reason: String) -> Result<(), Error> {
        if stalled >= ATTEMPTS {
            return Err(Error::Unreachable { url: url.to_owned(), attempts: stalled, reason });
        }
        std::thread::sleep(self.first_pause * 2u32.pow(stalled - 1));
        Ok(())
    }

    fn continue_download(&self, request: &Request, partial: &mut Partial, task: &Task) -> Result<(), Attempt> {
        if request.size == Some(partial.length) && partial.length > 0 {
            return Ok(());
        }
        let mut body = self.open(&request.url, partial.length)?;
        if body.start != partial.length {
            partial.restart()?;
        }
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = body.reader.read(&mut buffer).map_err(|error| Attempt::Again(error.to_string()))?;
            if count == 0 {
                return Ok(());
            }
            if request.size.is_some_and(|size| partial.length + count as u64 > size) {
                partial.remove()?;
                let wanted = request.size.unwrap_or(0);
                return Err(Attempt::Fatal(Error::TooLarge { url: request.url.clone(), wanted }));
            }
            partial.append(&buffer[..count])?;
            task.advance(count as u64);
        }
    }

    /// Opens the URL at byte `start`; the server may answer from the beginning instead.
    fn open(&self, url: &str, start: u64) -> Result<Body, Attempt> {
        if let Some(path) = url.strip_prefix("file://") {
            return open_file(url, path);
        }
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Attempt::Fatal(Error::Scheme { url: url.to_owned() }));
        }
        let mut request = self.agent.get(url);
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        // Bytes on the wire are what the hash is of: no transparent decompression.
        let response = request.header("Accept-Encoding", "identity").call();
        let response = response.map_err(|error| Attempt::Again(error.to_string()))?;
        let status = response.status().as_u16();
        let begins = match status {
            200 => 0,
            206 => content_start(&response).unwrap_or(0),
            // The part is as long as the file or longer: from the beginning.
            416 if start > 0 => return self.open(url, 0),
            404 | 410 => return Err(Attempt::Fatal(Error::NotFound { url: url.to_owned(), status })),
            408 | 429 | 500..=599 => return Err(Attempt::Again(format!("status {status}"))),
            _ => return Err(Attempt::Fatal(Error::Status { url: url.to_owned(), status })),
        };
        if status == 206 && begins != start {
            return self.open(url, 0);
        }
        Ok(Body { start: begins, reader: Box::new(response.into_body().into_reader()) })
    }
}

/// First byte of a partial answer, RFC 9110 section 14.4: `Content-Range: bytes 100-199/200`.
fn content_start<B>(response: &ureq::http::Response<B>) -> Option<u64> {
    let value = response.headers().get("content-range")?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn open_file(url: &str, path: &str) -> Result<Body, Attempt> {
    match File::open(path) {
        Ok(file) => Ok(Body { start: 0, reader: Box::new(file) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Attempt::Fatal(Error::NotFound { url: url.to_owned(), status: 404 }))
        }
        Err(error) => Err(Attempt::Fatal(io_error(Path::new(path))(error).into())),
    }
}

struct Body {
    start: u64,
    reader: Box<dyn Read>,
}

/// How one attempt ended.
enum Attempt {
    Again(String),
    Fatal(Error),
}

impl From<crate::cache::Error> for Attempt {
    fn from(error: crate::cache::Error) -> Self {
        Attempt::Fatal(error.into())
    }
}

/// The part of a download that is on disk, with the hash state of its bytes.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Sha256,
}

impl Partial {
    fn open(path: PathBuf) -> Result<Self, crate::cache::Error> {
        let mut file = File::options().create(true).read(true).append(true).open(&path).map_err(io_error(&path))?;
        let mut hasher = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; 128 * 1024];
        // Something else than a file in that place (a device) has no bytes to go on from.
        let mut more = file.metadata().map_err(io_error(&path))?.is_file();
        while more {
            let count = file.read(&mut buffer).map_err(io_error(&path))?;
            hasher.update(&buffer[..count]);
            length += count as u64;
            more = count > 0;
        }
        Ok(Partial { path, file, length, hasher })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), crate::cache::Error> {
        self.file.write_all(bytes).map_err(io_error(&self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), crate::cache::Error> {
        self.file.set_len(0).map_err(io_error(&self.path))?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    fn remove(&self) -> Result<(), crate::cache::Error> {
        fs::remove_file(&self.path).map_err(io_error(&self.path))
    }

    fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }
}
