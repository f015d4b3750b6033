//! A small root out of made-up packages, overlays and a kernel, and the faults that must stop a build.

use super::*;
use crate::sources::deb::Control;
use ::images::tree::Kind;
use spec::image::Image;
use spec::profile::Profile;
use std::os::unix::fs::PermissionsExt;

fn package(name: &str, files: &[(&str, &str)]) -> Unpacked {
    let origin: Arc<str> = name.into();
    let mut tree = Tree::new();
    for (path, text) in files {
        let node = match text.strip_prefix("-> ") {
            Some(target) => Node::symlink(target, &origin),
            None => Node { uid: 7, ..Node::file(*text, 0o4755, &origin) },
        };
        tree.insert(path, node).unwrap();
    }
    let text = name.to_owned();
    let control = Control {
        name: text.clone(),
        version: "1".into(),
        architecture: "amd64".into(),
        source: text,
        source_version: "1".into(),
        section: String::new(),
        maintainer: String::new(),
        homepage: None,
        summary: String::new(),
    };
    Unpacked { control, tree }
}

fn kernel() -> Package {
    let files = ["modules.builtin", "modules.builtin.modinfo", "modules.order", "kernel/a.ko"];
    let files = files.map(|name| (name.to_owned(), Content::from(""))).into();
    Package::new("6.12-test".into(), Content::from("kernel"), files).unwrap()
}

struct World {
    profile: Profile,
    files: BTreeMap<String, Node>,
    packages: Vec<Unpacked>,
    timezone: String,
}

impl World {
    fn new(packages: Vec<Unpacked>) -> Self {
        World { profile: Profile::default(), files: BTreeMap::new(), packages, timezone: "UTC".into() }
    }

    fn compose(&self) -> Result<Composed, Error> {
        let image = Image {
            profile: "test".into(),
            role: "master".into(),
            version: "0.1.0-abc".into(),
            epoch: 1_700_000_000,
            kubernetes_version: "v1".into(),
            etcd_version: None,
            kernel_release: "6.12-test".into(),
            timezone: self.timezone.clone(),
            pause_image: "pause".into(),
            mtu: None,
            slice_us: None,
            timer_slack_us: None,
        };
        compose(&Ingredients {
            profile: &self.profile,
            packages: &self.packages,
            kernel: &kernel(),
            modules: &Selection::default(),
            load: &[],
            components: &[],
            programs: &BTreeMap::from([("init".to_owned(), Content::from("init"))]),
            files: &self.files,
            images: &BTreeMap::new(),
            image: &image,
            settings: &[],
            firewall: "table inet imgbuild",
        })
    }
}

fn text(tree: &Tree, path: &str) -> String {
    String::from_utf8(tree.find(path).unwrap().content().unwrap().read().unwrap().to_vec()).unwrap()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn packages_are_merged_into_usr_without_owners_and_setuid() {
    let kernel = package("linux", &[("/boot/vmlinuz-6.12", "k"), ("/usr/share/doc/linux", "d")]);
    let world = World::new(vec![package("a", &[("/lib/x", "one"), ("/sbin/tool", "t")]), kernel]);
    let tree = world.compose().unwrap().tree;
    let tool = tree.get("/usr/sbin/tool").unwrap();
    assert_eq!((tool.mode, tool.uid, &*tool.origin), (0o755, 0, "deb:a"));
    assert_eq!(text(&tree, "/usr/lib/x"), "one");
    assert!(matches!(&tree.get("/lib").unwrap().kind, Kind::Symlink(target) if target == "usr/lib"));
    assert!(tree.get("/usr/share/doc/linux").is_none(), "nothing of the kernel's package is merged");
    assert_eq!(tree.get("/tmp").unwrap().mode, 0o1777);
    assert!(text(&tree, "/etc/os-release").contains("VERSION_ID=\"0.1.0-abc\""));
    assert!(text(&tree, paths::IMAGE_FILE).contains("\"kernel-release\": \"6.12-test\""));
    assert!(text(&tree, "/etc/containerd/conf.d/images.toml").contains("sandbox = \"pause\"\n"));
}

#[test]
fn two_packages_with_one_file_are_reported_when_it_differs() {
    let same = World::new(vec![package("a", &[("/usr/lib/x", "1")]), package("b", &[("/lib/x", "1")])]);
    assert_eq!(same.compose().unwrap().warnings, Vec::<String>::new());
    let other = World::new(vec![package("a", &[("/usr/lib/x", "1")]), package("b", &[("/lib/x", "2")])]);
    let assembled = other.compose().unwrap();
    assert_eq!(assembled.warnings, ["/lib/x of deb:a is replaced by that of deb:b"]);
    assert_eq!(text(&assembled.tree, "/usr/lib/x"), "2");
}

#[test]
fn trimming_takes_globs_and_emptied_folders_but_not_what_is_kept() {
    let mut world = World::new(vec![package(
        "a",
        &[
            ("/usr/share/doc/a/b/c", ""),
            ("/usr/share/doc/keep/x", ""),
            ("/usr/lib/a.a", ""),
            ("/usr/lib/deep/b.a", ""),
            ("/usr/lib/b.so", ""),
        ],
    )]);
    world.profile.trim.remove = strings(&["/usr/share/doc/**", "/usr/lib/**/*.a"]);
    world.profile.trim.keep = strings(&["/usr/share/doc/keep"]);
    let tree = world.compose().unwrap().tree;
    for gone in ["/usr/share/doc/a", "/usr/lib/a.a", "/usr/lib/deep"] {
        assert!(tree.get(gone).is_none(), "{gone}");
    }
    for kept in ["/usr/share/doc/keep/x", "/usr/lib/b.so"] {
        assert!(tree.get(kept).is_some(), "{kept}");
    }
    world.profile.trim.remove = strings(&["/usr/{a"]);
    assert!(world.compose().unwrap_err().to_string().contains("trim.remove: glob `/usr/{a`"));
}

#[test]
fn only_the_machines_time_zone_and_certificates_bundle_stay() {
    let mut world = World::new(vec![package(
        "data",
        &[
            ("/usr/share/zoneinfo/Etc/UTC", "utc"),
            ("/usr/share/zoneinfo/UTC", "-> Etc/UTC"),
            ("/usr/share/zoneinfo/Europe/Berlin", "berlin"),
            ("/usr/share/zoneinfo/Asia/Tokyo", "tokyo"),
            ("/usr/share/ca-certificates/mozilla/B.crt", "B"),
            ("/usr/share/ca-certificates/mozilla/A.crt", "A\n"),
        ],
    )]);
    world.timezone = "Europe/Berlin".into();
    let tree = world.compose().unwrap().tree;
    assert_eq!(
        (text(&tree, "/etc/localtime"), text(&tree, "/usr/share/zoneinfo/UTC")),
        ("berlin".into(), "utc".into())
    );
    assert!(tree.get("/usr/share/zoneinfo/Asia").is_none());
    assert_eq!(text(&tree, "/etc/ssl/certs/ca-certificates.crt"), "A\nB\n");
    assert!(tree.get("/usr/share/ca-certificates").is_none());
    world.timezone = "Europe/Atlantis".into();
    assert!(world.compose().unwrap_err().to_string().contains("Europe/Atlantis"));
}

#[test]
fn an_overlay_wins_and_its_modes_do_not_depend_on_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("etc")).unwrap();
    for (name, mode) in [("etc/issue", 0o600), ("etc/run", 0o700), ("etc/.gitkeep", 0o644)] {
        let path = folder.path().join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("issue", folder.path().join("etc/link")).unwrap();
    let mut world = World::new(vec![package("a", &[("/etc/run", "package")])]);
    world.profile.overlays = vec![folder.path().to_str().unwrap().to_owned()];
    let tree = world.compose().unwrap().tree;
    let mode = |path: &str| tree.get(path).unwrap().mode;
    assert_eq!((mode("/etc/issue"), mode("/etc/run")), (0o644, 0o755));
    assert_eq!((text(&tree, "/etc/run"), text(&tree, "/etc/link")), ("etc/run".into(), "etc/issue".into()));
    assert!(tree.get("/etc/.gitkeep").is_none());
    std::os::unix::net::UnixListener::bind(folder.path().join("etc/socket")).unwrap();
    assert!(world.compose().unwrap_err().to_string().contains("etc/socket"));
}

#[test]
fn users_have_no_password_no_shell_and_their_own_number() {
    let mut world = World::new(Vec::new());
    world.profile =
        toml::from_str("[users.etcd]\nuid = 200\nhome = \"/var/lib/etcd\"\n[users.nobody]\nuid = 65534\n").unwrap();
    let tree = world.compose().unwrap().tree;
    let passwd = text(&tree, "/etc/passwd");
    assert_eq!(
        passwd,
        "root:x:0:0:root:/root:/usr/sbin/nologin\netcd:x:200:200:etcd:/var/lib/etcd:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    assert!(text(&tree, "/etc/group").ends_with("etcd:x:200:\nnogroup:x:65534:\n"));
    assert_eq!(tree.get("/etc/shadow").unwrap().mode, 0o600);
    world.profile = toml::from_str("[users.a]\nuid = 7\n[users.b]\nuid = 7\n").unwrap();
    assert!(world.compose().unwrap_err().to_string().contains("a and b have the same uid 7"));
}

#[test]
fn programs_links_and_files_of_the_profile_are_placed() {
    let mut world = World::new(Vec::new());
    world.profile = toml::from_str(
        "[programs]\ninit = \"/usr/sbin/init\"\n[links]\n\"/usr/sbin/modprobe\" = \"init\"\n\
         [kernel]\nblacklist = [\"nf_nat\"]\n",
    )
    .unwrap();
    world.files = BTreeMap::from([("/etc/motd".to_owned(), Node::file("hello", 0o640, &"file".into()))]);
    let tree = world.compose().unwrap().tree;
    assert_eq!(text(&tree, "/sbin/modprobe"), "init");
    assert_eq!((tree.get("/etc/motd").unwrap().mode, text(&tree, "/etc/motd")), (0o640, "hello".into()));
    assert_eq!(text(&tree, "/usr/lib/modprobe.d/imgbuild.conf"), "blacklist nf_nat\n");
}

#[test]
fn what_would_not_run_stops_the_build_by_name() {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut dynamic = package("tool", &[]);
    dynamic.tree.insert("/usr/bin/tool", Node::file(own, 0o755, &"tool".into())).unwrap();
    let service = package(
        "service",
        &[
            ("/usr/lib/imgbuild/services/good.toml", "description = \"\"\nexec = [\"/usr/bin/good\"]\n"),
            ("/usr/bin/good", "x"),
            (
                "/usr/lib/imgbuild/services/bad.toml",
                "description = \"\"\nexec = [\"/usr/bin/none\"]\nuser = \"ghost\"\nafter = [\"good\", \"later\"]\n",
            ),
            ("/usr/lib/imgbuild/services/other.toml", "description = \"\"\nexec = [\"/none\"]\nroles = [\"node\"]\n"),
            ("/usr/lib/imgbuild/services/broken.toml", "exec = 3\n"),
        ],
    );
    let error = World::new(vec![service, dynamic]).compose().unwrap_err().to_string();
    for part in [
        "/usr/bin/tool (from deb:tool) wants the interpreter /lib64/ld-linux-x86-64.so.2",
        "/usr/bin/tool (from deb:tool) needs the library libc.so.6",
        "bad.toml: exec names \"/usr/bin/none\"",
        "bad.toml: user \"ghost\"",
        "bad.toml: after names the service \"later\"",
        "broken.toml: not a service",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(!error.contains("good.toml") && !error.contains("other.toml"), "{error}");
}

#[test]
fn links_to_nowhere_and_scripts_without_a_shell_are_warnings() {
    let world = World::new(vec![package(
        "a",
        &[("/usr/bin/script", "#!/bin/sh -e\n"), ("/usr/lib/gone", "-> nowhere"), ("/etc/state", "-> /run/state")],
    )]);
    let warnings = world.compose().unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("/usr/lib/gone (from deb:a) is a link to nowhere"));
    assert!(warnings[1].starts_with("/usr/bin/script (from deb:a) is a script for /bin/sh"));
}

#[test]
fn microcode_becomes_one_file_a_maker() {
    let tree = package(
        "microcode",
        &[
            ("/usr/lib/firmware/intel-ucode/06-02", "two"),
            ("/usr/lib/firmware/intel-ucode/06-01", "one"),
            ("/usr/lib/firmware/amd-ucode/fam17.bin", "amd"),
            ("/usr/lib/firmware/amd-ucode/fam17.bin.asc", "signature"),
        ],
    );
    let early = firmware::microcode([&tree.tree]).unwrap().unwrap();
    assert_eq!(text(&early, "/kernel/x86/microcode/GenuineIntel.bin"), "onetwo");
    assert_eq!(text(&early, "/kernel/x86/microcode/AuthenticAMD.bin"), "amd");
    assert!(firmware::microcode([&Tree::new()]).unwrap().is_none());
    let assembled = World::new(vec![tree]).compose().unwrap();
    assert!(assembled.tree.get("/usr/lib/firmware").is_none(), "no module wants any of it");
}
