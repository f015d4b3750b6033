//! Stories about an archive that is honest, and about every way in which it is not: a little HTTP server
//! on the loopback, packages and indexes made here, signed by keys made here.

use super::*;
use crate::cache::{Cache, Digest};
use crate::lock::{DebianRequest, Request, Toolchain};
use crate::progress::Progress;
use openpgp::Cert;
use openpgp::cert::CertBuilder;
use openpgp::policy::StandardPolicy;
use openpgp::serialize::SerializeInto;
use openpgp::serialize::stream::{Message, Signer};
use sequoia_openpgp as openpgp;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// Files by path, and how often each was asked for; `cut` ends an answer early.
#[derive(Default)]
struct Site {
    files: BTreeMap<String, Vec<u8>>,
    requests: Vec<(String, Option<String>)>,
    /// Path -> bytes after which the connection is closed, for so many answers.
    cut: BTreeMap<String, (usize, u32)>,
}

/// A mirror on the loopback; gone when dropped.
struct Server {
    site: Arc<Mutex<Site>>,
    url: String,
    address: std::net::SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let site = Arc::new(Mutex::new(Site { files, ..Site::default() }));
        let shared = site.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = shared.clone();
                // A request for /stop ends the server.
                if !answer(stream, &site) {
                    return;
                }
            }
        });
        Server { site, url: format!("http://{address}"), address, thread: Some(thread) }
    }

    fn mirror(&self) -> Mirror {
        Mirror::from_url(&self.url).unwrap()
    }

    fn asked(&self, ending: &str) -> Vec<Option<String>> {
        let site = self.site.lock().unwrap();
        site.requests.iter().filter(|(path, _)| path.ends_with(ending)).map(|(_, range)| range.clone()).collect()
    }

    fn edit(&self, ending: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut site = self.site.lock().unwrap();
        let file = site.files.iter_mut().find(|(path, _)| path.ends_with(ending)).unwrap();
        change(file.1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let _ = stream.write_all(b"GET /stop HTTP/1.1\r\n\r\n");
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, site: &Mutex<Site>) -> bool {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut range) = (String::new(), None);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: ") {
            range = Some(value.trim().to_owned());
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    if path == "/stop" {
        return false;
    }
    let mut site = site.lock().unwrap();
    site.requests.push((path.clone(), range.clone()));
    let Some(content) = site.files.get(&path).cloned() else {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return true;
    };
    let start: usize =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    let (status, extra) = match start {
        0 => ("200 OK", String::new()),
        _ => {
            ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len()))
        }
    };
    let body = &content[start..];
    let mut end = body.len();
    if let Some((limit, times)) = site.cut.get_mut(&path).filter(|(_, times)| *times > 0) {
        *times -= 1;
        end = end.min(*limit);
    }
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..end]));
    let _ = stream.shutdown(Shutdown::Write);
    true
}

fn key(created: SystemTime, validity: Option<Duration>) -> Cert {
    let builder =
        CertBuilder::new().set_creation_time(created).add_userid("Test Archive").set_validity_period(validity);
    builder.add_signing_subkey().generate().unwrap().0
}

fn clear_sign(text: &str, key: &Cert, at: SystemTime) -> Vec<u8> {
    let policy = StandardPolicy::new();
    let secret = key.keys().with_policy(&policy, at).secret().for_signing().next().unwrap();
    let pair = secret.key().clone().into_keypair().unwrap();
    let mut signed = Vec::new();
    let signer = Signer::new(Message::new(&mut signed), pair).unwrap().creation_time(at);
    let mut message = signer.cleartext().build().unwrap();
    message.write_all(text.as_bytes()).unwrap();
    message.finalize().unwrap();
    signed
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, content) in members {
        writeln!(archive, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, "100644", content.len()).unwrap();
        archive.extend_from_slice(content);
        if content.len() % 2 == 1 {
            archive.push(b'\n');
        }
    }
    archive
}

/// Name in the archive, type, content or target. Names are written as they are, sound or not.
fn tar(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let is_file = *kind == tar::EntryType::Regular;
        header.set_size(if is_file { content.len() as u64 } else { 0 });
        if !is_file {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, if is_file { content.as_bytes() } else { b"" }).unwrap();
    }
    builder.into_inner().unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    liblzma::read::XzEncoder::new(content, 1).read_to_end(&mut compressed).unwrap();
    compressed
}

fn deb(name: &str, version: &str, entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: amd64\nSource: src (1.0)\nDescription: a test\n more\n"
    );
    let control = tar(&[("./control", tar::EntryType::Regular, &control)]);
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &xz(&control)), ("data.tar.xz", &xz(&tar(entries)))])
}

fn http_date(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let text = time.format(&time::format_description::well_known::Rfc2822).unwrap();
    text.replace("+0000", "UTC")
}

struct Archive {
    date: SystemTime,
    valid_until: Option<SystemTime>,
    signing_time: SystemTime,
    codename: &'static str,
    version: &'static str,
}

impl Default for Archive {
    fn default() -> Self {
        let now = SystemTime::now() - Duration::from_secs(60);
        Archive {
            date: now,
            valid_until: Some(now + 7 * DAY),
            signing_time: now,
            codename: "trixie",
            version: "1.21-1",
        }
    }
}

impl Archive {
    fn files(&self, key: &Cert) -> BTreeMap<String, Vec<u8>> {
        let content = "x".repeat(40_000);
        let package = deb(
            "crun",
            self.version,
            &[("./", tar::EntryType::Directory, ""), ("./usr/bin/crun", tar::EntryType::Regular, &content)],
        );
        let filename = format!("pool/crun_{}.deb", self.version);
        let packages = format!(
            "Package: crun\nVersion: {}\nArchitecture: amd64\nFilename: {filename}\nSize: {}\nSHA256: {}\n",
            self.version,
            package.len(),
            Digest::of(&package)
        );
        let packages = xz(packages.as_bytes());
        let until = self.valid_until.map(|until| format!("Valid-Until: {}\n", http_date(until))).unwrap_or_default();
        let release = format!(
            "Origin: Debian\nSuite: stable\nCodename: {}\nDate: {}\n{until}SHA256:\n {} {} main/binary-amd64/Packages.xz\n",
            self.codename,
            http_date(self.date),
            Digest::of(&packages),
            packages.len()
        );
        BTreeMap::from([
            ("/debian/dists/trixie/InRelease".to_owned(), clear_sign(&release, key, self.signing_time)),
            ("/debian/dists/trixie/main/binary-amd64/Packages.xz".to_owned(), packages),
            (format!("/debian/{filename}"), package),
        ])
    }
}

struct Bench {
    folder: tempfile::TempDir,
    fetcher: Fetcher,
}

impl Bench {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(offline: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fetcher = fetcher(folder.path(), offline);
        Bench { folder, fetcher }
    }

    fn lock(&self, server: &Server, keys: &[&Cert]) -> Result<Lock, Error> {
        let trust = Trust::of(keys.iter().map(|key| (*key).clone()).collect());
        let conditions = Conditions { trust: &trust, now: SystemTime::now(), allow_expired: false };
        let request = request();
        let index = Index::load(&self.fetcher, &server.mirror(), request.debian.wanted(), &conditions)?;
        match Lock::resolve(&request, &index) {
            Ok(lock) => Ok(lock),
            Err(crate::lock::Error::Debian(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    fn fetch(&self, server: &Server, lock: &Lock) -> Result<Vec<PathBuf>, Error> {
        fetch_packages(&self.fetcher, &server.mirror(), lock)
    }

    fn unpack(&self, package: &[u8]) -> Result<Unpacked, Error> {
        let (digest, path) = self.fetcher.cache().insert(&mut &package[..], "test", None)?;
        package::unpack(self.fetcher.cache(), &path, &digest, "evil")
    }
}

fn fetcher(cache: &Path, offline: bool) -> Fetcher {
    let options = fetch::Options { offline, proxy: None, first_pause: Some(Duration::from_millis(1)) };
    Fetcher::new(Cache::open(Some(cache)).unwrap(), Progress::quiet(), options)
}

fn request() -> Request {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let debian = DebianRequest {
        architecture: "amd64".into(),
        suites: list(&["trixie"]),
        components: list(&["main"]),
        keys: list(&["0000000000000000000000000000000000000000"]),
        packages: list(&["crun"]),
        exclude: Vec::new(),
    };
    Request { profile: "test".into(), debian, components: Vec::new(), toolchain: Toolchain::default() }
}

fn fresh_key() -> Cert {
    key(SystemTime::now() - 30 * DAY, None)
}

#[test]
fn an_honest_archive_is_locked_fetched_and_unpacked() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    let files = bench.fetch(&server, &lock).unwrap();
    let unpacked = unpack_packages(&bench.fetcher, &lock, &files).unwrap();
    assert_eq!(unpacked[0].tree.get("/usr/bin/crun").unwrap().size(), 40_000);
    assert_eq!(unpacked[0].tree.get("/usr/bin/crun").unwrap().content().unwrap().read().unwrap()[..3], *b"xxx");
    let control = &unpacked[0].control;
    assert_eq!((control.source.as_str(), control.source_version.as_str()), ("src", "1.0"));
    assert_eq!(control.summary, "a test");
    bench.fetch(&server, &lock).unwrap();
    assert_eq!(server.asked(".deb").len(), 1, "the second fetch must come from the cache");
}

#[test]
fn a_wrong_key_is_named_with_the_trusted_one() {
    let (key, other, bench) = (fresh_key(), fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&other));
    let error = bench.lock(&server, &[&key]).unwrap_err();
    assert!(matches!(error, Error::WrongKey { .. }), "{error}");
    assert!(error.to_string().contains(&key.fingerprint().to_hex()), "{error}");
}

#[test]
fn the_pins_narrow_the_keyring() {
    let (key, other) = (fresh_key(), fresh_key());
    let folder = tempfile::tempdir().unwrap();
    let keyring = folder.path().join("keyring.gpg");
    let both = [key.to_vec().unwrap(), other.to_vec().unwrap()].concat();
    std::fs::write(&keyring, both).unwrap();
    let now = SystemTime::now();
    let signed = Archive::default().files(&other).remove("/debian/dists/trixie/InRelease").unwrap();
    let verify = |pin: &Cert| {
        let trust = Trust::load(std::slice::from_ref(&keyring), &[pin.fingerprint().to_spaced_hex()]).unwrap();
        release::Release::verify("url", &signed, &trust, now)
    };
    assert_eq!(verify(&other).unwrap().signers, [other.fingerprint().to_hex()]);
    assert!(matches!(verify(&key), Err(Error::WrongKey { .. })));
}

#[test]
fn a_key_that_has_expired_since_it_signed_is_not_believed() {
    let now = SystemTime::now();
    let key = key(now - 30 * DAY, Some(20 * DAY));
    let archive = Archive { signing_time: now - 15 * DAY, ..Archive::default() };
    let server = Server::start(archive.files(&key));
    let error = Bench::new().lock(&server, &[&key]).unwrap_err();
    assert!(matches!(error, Error::KeyNotValid { .. }), "{error}");
}

#[test]
fn a_revoked_key_is_not_believed() {
    let key = fresh_key();
    let files = Archive::default().files(&key);
    let mut signer = key.primary_key().key().clone().parts_into_secret().unwrap().into_keypair().unwrap();
    let revocation = key.revoke(&mut signer, openpgp::types::ReasonForRevocation::KeyCompromised, b"stolen").unwrap();
    let revoked = key.clone().insert_packets(revocation).unwrap().0;
    let error = Bench::new().lock(&Server::start(files), &[&revoked]).unwrap_err();
    assert!(matches!(error, Error::KeyNotValid { .. }), "{error}");
}

#[test]
fn an_altered_release_fails_by_its_signature() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    server.edit("InRelease", |file| {
        let text = String::from_utf8(file.clone()).unwrap().replace("Origin: Debian", "Origin: Debiam");
        *file = text.into_bytes();
    });
    let error = bench.lock(&server, &[&key]).unwrap_err();
    assert!(matches!(error, Error::BadSignature { .. }), "{error}");
}

#[test]
fn text_outside_the_signature_is_never_parsed() {
    let key = fresh_key();
    let now = SystemTime::now();
    let signed = Archive::default().files(&key).remove("/debian/dists/trixie/InRelease").unwrap();
    let trust = Trust::of(vec![key]);
    let before = [b"Codename: evil\nSHA256:\n\n".as_slice(), &signed].concat();
    let after = [signed.as_slice(), b"\nCodename: evil\n"].concat();
    for text in [before, after] {
        match release::Release::verify("url", &text, &trust, now) {
            Ok(release) => assert_eq!(release.codename, "trixie"),
            Err(error) => assert!(matches!(error, Error::NotSigned { .. } | Error::BadSignature { .. }), "{error}"),
        }
    }
    let unsigned = release::Release::verify("url", b"Codename: trixie\nSHA256:\n", &trust, now);
    assert!(matches!(unsigned, Err(Error::NotSigned { .. })), "{unsigned:?}");
}

#[test]
fn an_expired_index_stops_locking_but_not_building() {
    let (key, bench) = (fresh_key(), Bench::new());
    let now = SystemTime::now();
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    let old = Archive { date: now - 10 * DAY, valid_until: Some(now - 3 * DAY), ..Archive::default() };
    let stale = Server::start(old.files(&key));
    let fresh = Bench::new();
    let error = fresh.lock(&stale, &[&key]).unwrap_err();
    assert!(matches!(error, Error::Expired { .. }), "{error}");
    fresh.fetch(&stale, &lock).unwrap();
}

#[test]
fn an_index_from_the_future_and_another_suite_are_named() {
    let key = fresh_key();
    let future = Archive { date: SystemTime::now() + DAY, ..Archive::default() };
    let error = Bench::new().lock(&Server::start(future.files(&key)), &[&key]).unwrap_err();
    assert!(matches!(error, Error::NotYetValid { .. }), "{error}");
    let other = Archive { codename: "sid", ..Archive::default() };
    let error = Bench::new().lock(&Server::start(other.files(&key)), &[&key]).unwrap_err();
    // Suite and codename both count; this one is neither.
    assert!(matches!(error, Error::WrongSuite { .. }), "{error}");
}

#[test]
fn an_altered_index_fails_by_its_hash() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    server.edit("Packages.xz", |file| *file.last_mut().unwrap() ^= 1);
    let error = bench.lock(&server, &[&key]).unwrap_err();
    assert!(
        matches!(&error, Error::Index { suite, source } if suite == "trixie" && matches!(**source, fetch::Error::Hash { .. })),
        "{error}"
    );
}

#[test]
fn an_altered_package_fails_by_its_hash_and_leaves_nothing() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    server.edit(".deb", |file| file[100] ^= 1);
    let error = bench.fetch(&server, &lock).unwrap_err();
    assert!(
        matches!(&error, Error::Package { name, source, .. } if name == "crun" && matches!(**source, fetch::Error::Hash { .. })),
        "{error}"
    );
    assert_eq!(bench.fetcher.cache().find(&lock.packages[0].sha256, None).unwrap(), None);
    assert_eq!(std::fs::read_dir(bench.folder.path().join("partial")).unwrap().count(), 0);
    server.edit(".deb", |file| file[100] ^= 1);
    bench.fetch(&server, &lock).unwrap();
}

#[test]
fn a_download_cut_short_goes_on_where_it_ended() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    let path = format!("/debian/{}", lock.packages[0].filename);
    server.site.lock().unwrap().cut.insert(path, (200, 2));
    bench.fetch(&server, &lock).unwrap();
    assert_eq!(server.asked(".deb"), [None, Some("bytes=200-".into()), Some("bytes=400-".into())]);
}

#[test]
fn a_download_that_never_goes_on_is_named_and_resumed_by_the_next_build() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    let path = format!("/debian/{}", lock.packages[0].filename);
    server.edit(".deb", |file| file.truncate(300));
    let error = bench.fetch(&server, &lock).unwrap_err();
    let wanted = lock.packages[0].size;
    let source = match &error {
        Error::Package { source, .. } => source,
        other => panic!("{other}"),
    };
    assert!(matches!(**source, fetch::Error::Truncated { found: 300, wanted: size, .. } if size == wanted), "{error}");
    // The mirror is mended: a new process asks for the rest only.
    let whole = Archive::default().files(&key).remove(&path).unwrap();
    server.edit(".deb", |file| *file = whole);
    let before = server.asked(".deb").len();
    fetch_packages(&fetcher(bench.folder.path(), false), &server.mirror(), &lock).unwrap();
    assert_eq!(server.asked(".deb")[before..], [Some("bytes=300-".into())]);
}

#[test]
fn a_stale_part_of_another_file_is_thrown_away() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    let partial = bench.fetcher.cache().partial_path(&lock.packages[0].sha256);
    std::fs::write(partial, b"garbage").unwrap();
    bench.fetch(&server, &lock).unwrap();
}

#[test]
fn a_mirror_that_is_gone_is_named() {
    let key = fresh_key();
    let server = Server::start(Archive::default().files(&key));
    let bench = Bench::new();
    let lock = bench.lock(&server, &[&key]).unwrap();
    let mirror = server.mirror();
    drop(server);
    let error = fetch_packages(&bench.fetcher, &mirror, &lock).unwrap_err();
    assert!(matches!(error, Error::Fetch(fetch::Error::Unreachable { .. })), "{error}");
    assert!(error.to_string().contains(&mirror.debian) && error.to_string().contains("--mirror"), "{error}");
}

#[test]
fn a_version_that_has_left_the_mirror_is_named_with_the_command() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    server.site.lock().unwrap().files.retain(|path, _| !path.ends_with(".deb"));
    let error = bench.fetch(&server, &lock).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::VersionGone { .. }), "{message}");
    assert!(message.contains("1.21-1") && message.contains("imgbuild lock --update --profile test"), "{message}");
}

#[test]
fn offline_names_what_the_cache_lacks_and_works_with_what_it_has() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    let cold = Bench::with(true);
    let error = fetch_packages(&cold.fetcher, &server.mirror(), &lock).unwrap_err();
    assert!(matches!(&error, Error::Fetch(fetch::Error::Offline { label, .. }) if label == "crun 1.21-1"), "{error}");
    let error = cold.lock(&server, &[&key]).unwrap_err();
    assert!(
        matches!(&error, Error::Index { source, .. } if matches!(**source, fetch::Error::Offline { .. })),
        "{error}"
    );
    bench.fetch(&server, &lock).unwrap();
    let asked = server.site.lock().unwrap().requests.len();
    let warm = Bench { fetcher: fetcher(bench.folder.path(), true), folder: tempfile::tempdir().unwrap() };
    warm.lock(&server, &[&key]).unwrap();
    warm.fetch(&server, &lock).unwrap();
    assert_eq!(server.site.lock().unwrap().requests.len(), asked);
}

#[test]
fn a_full_disk_is_called_that() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    let partial = bench.fetcher.cache().partial_path(&lock.packages[0].sha256);
    std::os::unix::fs::symlink("/dev/full", partial).unwrap();
    let error = bench.fetch(&server, &lock).unwrap_err();
    assert!(error.to_string().contains("no space left on the device"), "{error}");
}

#[test]
fn two_builds_download_a_package_once() {
    let (key, bench) = (fresh_key(), Bench::new());
    let server = Server::start(Archive::default().files(&key));
    let lock = bench.lock(&server, &[&key]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| fetch_packages(&fetcher(bench.folder.path(), false), &server.mirror(), &lock).unwrap());
        }
    });
    assert_eq!(server.asked(".deb").len(), 1);
}

#[test]
fn members_that_lead_out_are_refused_by_name() {
    use tar::EntryType::{Link, Regular, Symlink};
    let bench = Bench::new();
    for (name, kind, content, wanted) in [
        ("../etc/passwd", Regular, "x", "../etc/passwd"),
        ("./usr/../../etc/passwd", Regular, "x", "usr/../../etc/passwd"),
        ("/etc/passwd", Regular, "x", "/etc/passwd"),
        ("./usr/lib/evil", Symlink, "../../../etc", "/usr/lib/evil -> ../../../etc"),
        ("./evil", Symlink, "..", "/evil -> .."),
        ("./evil", Symlink, "/../etc", "/evil -> /../etc"),
        ("./evil", Link, "../../etc/passwd", "../../etc/passwd"),
        ("./evil", Link, "./nothing", "/nothing"),
    ] {
        let message = bench.unpack(&deb("evil", "1", &[(name, kind, content)])).unwrap_err().to_string();
        assert!(message.starts_with("evil: ") && message.contains(wanted), "{name}: {message}");
    }
}

#[test]
fn links_inside_the_root_are_kept() {
    use tar::EntryType::{Link, Regular, Symlink};
    let bench = Bench::new();
    let entries = [
        ("./usr/bin/a", Regular, "content"),
        ("./usr/bin/b", Link, "./usr/bin/a"),
        ("./usr/lib/c", Symlink, "../bin/a"),
        ("./usr/lib/d", Symlink, "/etc/alternatives/d"),
    ];
    let tree = bench.unpack(&deb("good", "1", &entries)).unwrap().tree;
    assert_eq!(&*tree.get("/usr/bin/b").unwrap().content().unwrap().read().unwrap(), b"content");
    assert_eq!(tree.resolve("/usr/lib/c").as_deref(), Some("/usr/bin/a"));
}

#[test]
fn what_is_no_package_is_told() {
    let bench = Bench::new();
    let whole = deb("a", "1", &[("./x", tar::EntryType::Regular, "x")]);
    for (content, wanted) in [
        (&b"<html>"[..], "not a Debian package"),
        (&whole[..40], "cut short within a header"),
        (&ar(&[("debian-binary", b"3.0\n")]), "format 2"),
        (&ar(&[("debian-binary", b"2.0\n"), ("control.tar.lz", b"")]), "compression .lz is not known"),
        (&whole[..whole.len() - 20], "decompressed"),
    ] {
        let message = bench.unpack(content).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
}

proptest::proptest! {
    /// Whatever a .deb holds: an answer or an error, no panic.
    #[test]
    fn a_damaged_package_never_panics(position in 0usize..600, byte: u8) {
        let bench = Bench::new();
        let mut package = deb("a", "1", &[("./x", tar::EntryType::Regular, "x"), ("./y", tar::EntryType::Symlink, "x")]);
        let position = position % package.len();
        package[position] = byte;
        let _ = bench.unpack(&package);
    }
}
