//! Whether this machine may take a bundle; asked before anything is written.

use bundle::Manifest;
use spec::agent::{SlotState, SlotStatus};
use spec::cmdline::ROOT_HASH;
use spec::image::Image;
use spec::layout::STATE_FORMAT;

/// In words what speaks against it. `command_line` is the running kernel's, `slots` those of the loader.
pub fn judge(running: &Image, command_line: &str, slots: &[SlotStatus], bundle: &Manifest) -> Result<(), String> {
    let image = &bundle.image;
    if image.profile != running.profile {
        return Err(format!("the bundle is for the profile {}; this machine runs {}", image.profile, running.profile));
    }
    let root_hash =
        |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix(ROOT_HASH)).map(str::to_owned);
    if root_hash(command_line).is_some_and(|hash| Some(hash) == root_hash(&bundle.command_line)) {
        return Err(format!("this machine runs that image already: {}", image.version));
    }
    if slots.iter().any(|slot| slot.running && slot.state == SlotState::Trial) {
        return Err("the slot that runs is on trial itself: a minute after all is well it is good".into());
    }
    if image.epoch < running.epoch {
        return Err(format!(
            "the bundle's packages are older ({}) than those that run ({}): an older image goes on by writing the disk",
            image.epoch, running.epoch
        ));
    }
    if bundle.state_format < STATE_FORMAT {
        return Err(format!(
            "the bundle's image knows state of format {}, this disk's is {STATE_FORMAT}",
            bundle.state_format
        ));
    }
    goes_on("Kubernetes", &running.kubernetes_version, &image.kubernetes_version)?;
    match (&running.etcd_version, &image.etcd_version) {
        (Some(running), Some(next)) => goes_on("etcd", running, next),
        (Some(running), None) => Err(format!("this machine runs etcd {running}, and the bundle has none")),
        (None, _) => Ok(()),
    }
}

/// One minor version at a time and never back: Kubernetes' version skew policy, and etcd's for its storage (etcd's
/// documentation, "Upgrading etcd clusters" and "Downgrade").
fn goes_on(what: &str, running: &str, next: &str) -> Result<(), String> {
    let (Some((major, minor)), Some((next_major, next_minor))) = (minor_of(running), minor_of(next)) else {
        return Err(format!("{what}'s versions {running} and {next} cannot be compared"));
    };
    if major != next_major || next_minor > minor + 1 {
        return Err(format!("{what} {next} is more than one minor version after {running}: go on by each of them"));
    }
    if next_minor < minor {
        return Err(format!("{what} {next} is older than {running}: it does not read what that wrote"));
    }
    Ok(())
}

/// `v1.37.2`
fn minor_of(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use spec::layout::Slot;

    fn image(change: impl FnOnce(&mut Image)) -> Image {
        let mut image = Image {
            profile: "master".into(),
            role: "master".into(),
            version: "0.1.0-new".into(),
            epoch: 1_790_000_000,
            kubernetes_version: "v1.37.2".into(),
            etcd_version: Some("v3.6.16".into()),
            kernel_release: "6.12".into(),
            timezone: "UTC".into(),
            pause_image: "imgbuild.local/pause:1".into(),
            mtu: None,
            slice_us: None,
            timer_slack_us: None,
        };
        change(&mut image);
        image
    }

    fn bundle(change: impl FnOnce(&mut Manifest)) -> Manifest {
        let mut manifest = Manifest {
            format: Manifest::FORMAT,
            image: image(|_| ()),
            state_format: STATE_FORMAT,
            kernel: bundle::Range { offset: 0, length: 0 },
            initramfs: bundle::Range { offset: 0, length: 0 },
            command_line: format!("quiet {ROOT_HASH}=new"),
            files: Default::default(),
        };
        change(&mut manifest);
        manifest
    }

    #[test]
    fn what_speaks_against_a_bundle_is_said() {
        let running = image(|image| image.version = "0.1.0-old".into());
        let line = format!("quiet {ROOT_HASH}=old");
        let slot = |state| [SlotStatus { slot: Slot::A, generation: 1, state, running: true }];
        let good = slot(SlotState::Good);
        let reason = |bundle: &Manifest| judge(&running, &line, &good, bundle).unwrap_err();
        judge(&running, &line, &good, &bundle(|_| ())).unwrap();
        judge(&running, &line, &good, &bundle(|next| next.image.kubernetes_version = "v1.38.0".into())).unwrap();
        assert!(reason(&bundle(|next| next.image.profile = "node".into())).contains("for the profile node"));
        assert!(reason(&bundle(|next| next.command_line = line.clone())).contains("runs that image already"));
        assert!(reason(&bundle(|next| next.image.epoch -= 1)).contains("older"));
        assert!(reason(&bundle(|next| next.state_format -= 1)).contains("format 0"));
        for (version, word) in
            [("v1.39.0", "more than one"), ("v1.36.9", "is older"), ("v2.37.2", "more than"), ("1.37", "cannot be")]
        {
            let said = reason(&bundle(|next| next.image.kubernetes_version = version.into()));
            assert!(said.contains(word), "{said}");
        }
        let with_etcd = |version: Option<&str>| bundle(|next| next.image.etcd_version = version.map(Into::into));
        judge(&running, &line, &good, &with_etcd(Some("v3.7.0"))).unwrap();
        for (version, words) in
            [(Some("v3.8.0"), "etcd v3.8.0 is more than one"), (Some("v3.5.9"), "is older"), (None, "has none")]
        {
            let said = reason(&with_etcd(version));
            assert!(said.contains(words), "{said}");
        }
        assert!(judge(&running, &line, &slot(SlotState::Trial), &bundle(|_| ())).unwrap_err().contains("on trial"));
    }
}
