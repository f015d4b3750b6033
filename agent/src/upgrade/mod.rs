//! A bundle comes to the other slot: its manifest is judged, what the machine has of it is copied, the rest is sent
//! chunk by chunk or fetched (fetch.rs), what was written is read back, and the slot is on trial from the next boot on
//! (trial.rs).
//!
//! Architecture invariant: the slot that runs is never written, the other has no boot files until everything in it was
//! read back and found to be what the signed manifest says.

mod fetch;
mod judge;
mod payload;
mod trial;

pub use trial::{Slots, watch};

use crate::facts::{Facts, under};
use crate::hex;
use crate::machine::say;
use crate::node_api::init_status;
use crate::server::Caller;
use bundle::{Manifest, PAYLOAD};
use payload::{Files, Missing};
use sha2::{Digest, Sha256};
use spec::agent::{Upgrade, UpgradePhase};
use spec::paths;
use spec::status::BootPlace;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a bundle, or a piece of one, is not taken.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Slots(#[from] slots::Error),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} is not what the bundle's manifest says: it was changed on its way, or the disk does not keep it")]
    Damaged(String),
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> UpgradeError + '_ {
    move |source| UpgradeError::Io { path: path.into(), source }
}

fn refused(reason: impl Into<String>) -> UpgradeError {
    UpgradeError::Refused(reason.into())
}

/// The upgrade of this machine, if there is one.
pub struct Upgrades {
    root: PathBuf,
    current: Mutex<Option<Arc<Session>>>,
}

/// A bundle that is taken.
struct Session {
    digest: String,
    manifest: Manifest,
    files: Files,
    state: Mutex<State>,
}

struct State {
    phase: UpgradePhase,
    missing: Missing,
    reason: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upgrades {
    pub fn new(root: &Path) -> Upgrades {
        Upgrades { root: root.into(), current: Mutex::new(None) }
    }

    /// What has come of it.
    pub fn status(&self) -> Upgrade {
        lock(&self.current).as_ref().map(|session| session.status()).unwrap_or_default()
    }

    /// Takes a bundle by its manifest; the work goes on behind the answer. A bundle that is being received already goes
    /// on where it is.
    pub fn begin(
        &self,
        facts: &Facts,
        slots: &Slots,
        caller: &Caller,
        manifest: &[u8],
        signature: &str,
    ) -> Result<String, UpgradeError> {
        let digest = hex::text(&Sha256::digest(manifest));
        let signature = hex::bytes(signature).ok_or_else(|| refused("signature= is no hexadecimal text"))?;
        bundle::verify(manifest, &signature, &self.release_keys()?)?;
        let parsed = Manifest::decode(manifest)?;
        let version = parsed.image.version.clone();
        let mut current = lock(&self.current);
        if let Some(session) = current.as_ref() {
            match session.phase() {
                UpgradePhase::Receiving | UpgradePhase::Fetching if session.digest == digest => {
                    return Ok(format!("{version} goes on"));
                }
                UpgradePhase::Copying | UpgradePhase::Fetching | UpgradePhase::Checking => {
                    return Err(refused("another upgrade is at work: ask again when it is through"));
                }
                _ => {}
            }
        }
        let place = self.place()?;
        judge::judge(&facts.image, &running_command_line()?, &slots.current(), &parsed).map_err(refused)?;
        say(format!("upgrade to {version}, sent by {} ({})", caller.name, caller.organization));
        let files = Files::new(place, under(&self.root, paths::UPGRADE_DIR));
        let state = State { phase: UpgradePhase::Copying, missing: Missing::default(), reason: None };
        let session = Arc::new(Session { digest, manifest: parsed, files, state: Mutex::new(state) });
        *current = Some(session.clone());
        let record = manifest.to_vec();
        tokio::task::spawn_blocking(move || session.copy(&record));
        Ok(format!("{version} is taken"))
    }

    /// The session of a bundle, where it waits for chunks.
    fn receiving(&self, digest: &str) -> Result<Arc<Session>, UpgradeError> {
        let session = lock(&self.current).clone().filter(|session| session.digest == digest);
        let session = session.ok_or_else(|| refused(format!("no bundle {digest} was begun on this machine")))?;
        match session.phase() {
            UpgradePhase::Receiving => Ok(session),
            phase => Err(refused(format!("the upgrade does not wait for chunks: it is {phase:?}").to_lowercase())),
        }
    }

    /// Writes a chunk.
    pub async fn chunk(&self, digest: &str, file: &str, number: u32, bytes: &[u8]) -> Result<(), UpgradeError> {
        let session = self.receiving(digest)?;
        let (file, bytes) = (file.to_owned(), bytes.to_vec());
        let written = tokio::task::spawn_blocking(move || session.chunk(&file, number, &bytes)).await;
        written.unwrap_or_else(|error| Err(refused(error.to_string())))
    }

    /// Has the machine fetch what is missing; the work goes on behind the answer.
    pub fn fetch(&self, digest: &str, from: SocketAddr) -> Result<String, UpgradeError> {
        let session = self.receiving(digest)?;
        {
            let mut state = lock(&session.state);
            state.phase = UpgradePhase::Fetching;
            state.reason = None;
        }
        tokio::spawn(session.fetch(from));
        Ok(format!("what is missing comes from {from}"))
    }

    /// Everything was sent: the rest goes on behind the answer.
    pub fn finish(&self, digest: &str) -> Result<String, UpgradeError> {
        let session = self.receiving(digest)?;
        {
            let mut state = lock(&session.state);
            let missing = state.missing.count();
            if missing > 0 {
                return Err(refused(format!("{missing} chunks are missing")));
            }
            state.phase = UpgradePhase::Checking;
        }
        tokio::task::spawn_blocking(move || session.write());
        Ok("what was written is checked".into())
    }

    fn release_keys(&self) -> Result<Vec<bundle::PublicKey>, UpgradeError> {
        let folder = under(&self.root, paths::RELEASE_KEYS_DIR);
        let mut keys = Vec::new();
        // Without the folder the image trusts nobody.
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.map_err(at(&folder))?.path();
            let text = std::fs::read_to_string(&path).map_err(at(&path))?;
            keys.extend(bundle::public_keys(&path.display().to_string(), &text)?);
        }
        Ok(keys)
    }

    fn place(&self) -> Result<BootPlace, UpgradeError> {
        init_status(&self.root).boot.ok_or_else(|| {
            refused("this machine runs from memory: it takes a new image when it starts from the network again")
        })
    }
}

fn running_command_line() -> Result<String, UpgradeError> {
    let path = Path::new("/proc/cmdline");
    std::fs::read_to_string(path).map_err(at(path))
}

impl Session {
    fn phase(&self) -> UpgradePhase {
        lock(&self.state).phase
    }

    fn status(&self) -> Upgrade {
        let state = lock(&self.state);
        let size = self.manifest.size();
        let absent: u64 = PAYLOAD
            .iter()
            .filter_map(|name| Some((self.manifest.files.get(*name)?, state.missing.of(name)?)))
            .flat_map(|(payload, numbers)| numbers.iter().filter_map(|number| payload.chunks.get(*number as usize)))
            .map(|chunk| u64::from(chunk.size))
            .sum();
        Upgrade {
            phase: state.phase,
            digest: self.digest.clone(),
            version: self.manifest.image.version.clone(),
            size,
            present: size - absent,
            missing: state.missing.lists(),
            reason: state.reason.clone(),
        }
    }

    /// Empties the other slot and copies what is there. Blocks.
    fn copy(&self, record: &[u8]) {
        match self.files.copy(&self.manifest, record) {
            Ok(missing) => {
                let mut state = lock(&self.state);
                state.missing = missing;
                state.phase = UpgradePhase::Receiving;
            }
            Err(error) => self.fail(&error),
        }
    }

    fn chunk(&self, file: &str, number: u32, bytes: &[u8]) -> Result<(), UpgradeError> {
        self.files.put(&self.manifest, file, number, bytes)?;
        lock(&self.state).missing.remove(file, number);
        Ok(())
    }

    /// Checks what was written and puts the slot on trial. Blocks.
    fn write(&self) {
        match self.files.finish(&self.manifest) {
            Ok(entry) => {
                // Without it a UKI that does not load wants a hand.
                if let Err(error) = firmware::stay_with(Path::new(self.files.esp())) {
                    say(format!("the firmware's boot entries: {error}"));
                }
                say(format!("upgrade to {}: {entry} is on trial at the next boot", self.manifest.image.version));
                lock(&self.state).phase = UpgradePhase::Written;
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &UpgradeError) {
        say(format!("upgrade to {}: {error}", self.manifest.image.version));
        let mut state = lock(&self.state);
        state.phase = UpgradePhase::Failed;
        state.reason = Some(error.to_string());
    }
}
