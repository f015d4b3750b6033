use super::*;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    bytes.truncate(length);
    bytes
}

fn image() -> Image {
    Image {
        profile: "master".into(),
        role: "master".into(),
        version: "0.1.0-abc".into(),
        epoch: 1_790_000_000,
        kubernetes_version: "v1.37.2".into(),
        etcd_version: Some("v3.6.16".into()),
        kernel_release: "6.12".into(),
        timezone: "UTC".into(),
        pause_image: "imgbuild.local/pause:1".into(),
        mtu: None,
        slice_us: None,
        timer_slack_us: None,
    }
}

fn manifest() -> Manifest {
    let files = PAYLOAD.map(|name| (name.to_owned(), chunks_of("test", &noise(1_000_000, 7)[..]).unwrap()));
    let range = Range { offset: 10, length: 1000 };
    Manifest {
        format: Manifest::FORMAT,
        image: image(),
        state_format: 1,
        kernel: range,
        initramfs: range,
        command_line: "quiet".into(),
        files: files.into(),
    }
}

#[test]
fn what_is_put_in_or_taken_away_changes_few_chunks() {
    let before = noise(10_000_000, 1);
    let mut after = before.clone();
    after.splice(3_000_000..3_000_100, noise(5000, 2));
    after.drain(8_000_000..8_010_000);
    let (before, after) = (chunks_of("test", &before[..]).unwrap(), chunks_of("test", &after[..]).unwrap());
    assert_eq!(before.size, 10_000_000);
    assert!(before.chunks.len() > 80, "{}", before.chunks.len());
    let new = after.chunks.iter().filter(|chunk| !before.chunks.contains(chunk)).count();
    assert!((1..=6).contains(&new), "{new} of {}", after.chunks.len());
}

#[test]
fn the_pieces_are_the_file() {
    let file = noise(700_000, 3);
    let mut whole = Vec::new();
    for piece in Cutter::new(&file[..]) {
        let (chunk, bytes) = piece.unwrap();
        assert_eq!(Chunk::of(&bytes), chunk);
        assert!(chunk.size <= LARGEST);
        whole.extend(bytes);
    }
    assert!(whole == file);
    let payload = chunks_of("test", &file[..]).unwrap();
    for number in 0..payload.chunks.len() as u32 {
        let (offset, chunk) = payload.chunk(number).unwrap();
        assert_eq!(Chunk::of(&file[offset as usize..][..chunk.size as usize]), *chunk);
    }
    assert_eq!(payload.chunk(payload.chunks.len() as u32), None);
    assert!(chunks_of("test", &b""[..]).unwrap().chunks.is_empty());
}

#[test]
fn a_manifest_comes_back_and_one_that_does_not_add_up_is_refused() {
    let manifest = manifest();
    assert_eq!(Manifest::decode(&manifest.encode().unwrap()).unwrap(), manifest);
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        Manifest::decode(&changed.encode().unwrap()).unwrap_err().to_string()
    };
    assert!(refused(&|manifest| manifest.format = 2).contains("its format is 2; this program knows 1"));
    assert!(refused(&|manifest| drop(manifest.files.remove(ROOT))).contains("it has no root.img"));
    assert!(refused(&|manifest| manifest.files.get_mut(UKI).unwrap().chunks.truncate(3)).contains("of its 1000000"));
    assert!(refused(&|manifest| manifest.kernel.length = u64::MAX).contains("the kernel reaches behind"));
    assert!(Manifest::decode(b"{").is_err());
}

#[test]
fn only_a_trusted_key_s_signature_is_good() {
    let (key, private) = ReleaseKey::generate().unwrap();
    let (other, _) = ReleaseKey::generate().unwrap();
    let keys = |key: &ReleaseKey| public_keys("test", &key.public_pem()).unwrap();
    let read = ReleaseKey::from_pem("test", &private).unwrap();
    let signature = read.sign(b"manifest");
    assert_eq!(signature.len(), SIGNATURE_LENGTH);
    let both = [keys(&other), keys(&key)].concat();
    verify(b"manifest", &signature, &both).unwrap();
    assert!(verify(b"Manifest", &signature, &both).is_err());
    let message = verify(b"manifest", &signature, &keys(&other)).unwrap_err().to_string();
    assert!(message.contains("none of the 1 release keys"), "{message}");
    assert!(verify(b"manifest", &signature, &[]).is_err());
    for bad in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &private] {
        assert!(public_keys("bad", bad).is_err());
    }
    assert!(ReleaseKey::from_pem("bad", &key.public_pem()).is_err());
}

/// OpenSSL, where the host has it, takes our keys for its own and finds the signature good.
#[test]
fn openssl_agrees() {
    let folder = std::env::temp_dir().join(format!("imgbuild-bundle-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (key, private) = ReleaseKey::generate().unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    for (name, content) in [
        ("private.pem", private.into_bytes()),
        ("public.pem", key.public_pem().into_bytes()),
        ("manifest", b"manifest".to_vec()),
        ("signature", key.sign(b"manifest")),
    ] {
        std::fs::write(path(name), content).unwrap();
    }
    let openssl = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let public = openssl(&["pkey", "-in", &path("private.pem"), "-pubout"]);
    assert_eq!(public_keys("openssl", &public).unwrap(), public_keys("ours", &key.public_pem()).unwrap());
    openssl(&[
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        &path("public.pem"),
        "-rawin",
        "-in",
        &path("manifest"),
        "-sigfile",
        &path("signature"),
    ]);
    let own = openssl(&["genpkey", "-algorithm", "ed25519"]);
    ReleaseKey::from_pem("openssl", &own).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
