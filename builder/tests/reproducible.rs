//! The same lock gives the same bytes: two whole builds with another umask, locale, time zone and
//! output folder. (Another project folder is compared by hand: it compiles everything once more.)

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

/// Everything but the disk, which holds the seed, and what names the disk's hash.
const SAME: [&str; 5] = ["root.img", "imgbuild.efi", "vmlinuz", "initramfs.img", "sbom.spdx.json"];

fn build(out: &Path, umask: &str, environment: &[(&str, &str)]) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::create_dir_all(out).unwrap();
    let script = format!("umask {umask}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_imgbuild")])
        .args(["--profile", "master", "--profile", "vm", "--locked", "--quiet", "--project"])
        .arg(&project)
        .arg("--out")
        .arg(out)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn two_builds_of_one_lock_are_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("elsewhere/two"));
    build(&one, "022", &[("TZ", "UTC"), ("LC_ALL", "C")]);
    build(&two, "077", &[("TZ", "Asia/Kathmandu"), ("LC_ALL", "de_DE.UTF-8"), ("RUSTFLAGS", "-C debuginfo=1")]);
    for name in SAME {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(&one) == read(&two), "{name} differs");
    }
}
