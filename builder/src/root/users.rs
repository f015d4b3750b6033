//! /etc/passwd and its like. Nobody can log in: no password, no shell.

use super::Error;
use ::images::tree::{Node, Tree};
use spec::profile::User;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Groups that the kernel, udev's rules or mount options know by number (Debian's base-passwd).
const SYSTEM_GROUPS: [(&str, u32); 5] = [("root", 0), ("tty", 5), ("disk", 6), ("kmem", 15), ("nogroup", 65534)];
const NO_LOGIN: &str = "/usr/sbin/nologin";
const NO_HOME: &str = "/nonexistent";

/// Writes passwd, group, shadow and gshadow for root and the profile's users, by number.
pub(super) fn write(tree: &mut Tree, users: &BTreeMap<String, User>) -> Result<(), Error> {
    let mut passwd = vec![("root".to_owned(), 0, 0, "/root".to_owned())];
    let mut groups: BTreeMap<u32, String> =
        SYSTEM_GROUPS.iter().map(|(name, number)| (*number, (*name).to_owned())).collect();
    for (name, user) in users.iter().filter(|(name, _)| *name != "root") {
        let group = user.gid.unwrap_or(user.uid);
        let home = user.home.clone().unwrap_or_else(|| NO_HOME.to_owned());
        passwd.push((name.clone(), user.uid, group, home));
        // A user without a group of its own shares one that is there.
        groups.entry(group).or_insert_with(|| name.clone());
    }
    passwd.sort_by_key(|(_, number, ..)| *number);
    for pair in passwd.windows(2) {
        if pair[0].1 == pair[1].1 {
            let (first, second) = (pair[0].0.clone(), pair[1].0.clone());
            return Err(Error::SameId { first, second, what: "uid", number: pair[0].1 });
        }
    }
    let mut texts = [const { String::new() }; 4];
    for (name, uid, gid, home) in &passwd {
        // Writing to a String does not fail.
        let _ = writeln!(texts[0], "{name}:x:{uid}:{gid}:{name}:{home}:{NO_LOGIN}");
        let _ = writeln!(texts[1], "{name}:!*:::::::");
    }
    for (gid, name) in &groups {
        let _ = writeln!(texts[2], "{name}:x:{gid}:");
        let _ = writeln!(texts[3], "{name}:*::");
    }
    let origin: Arc<str> = "users".into();
    let [passwd, shadow, group, gshadow] = texts;
    for (path, text, mode) in [
        ("/etc/passwd", passwd, 0o644),
        ("/etc/group", group, 0o644),
        ("/etc/shadow", shadow, 0o600),
        ("/etc/gshadow", gshadow, 0o600),
    ] {
        tree.insert(path, Node::file(text, mode, &origin))?;
    }
    Ok(())
}
