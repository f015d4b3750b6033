//! Paths inside a tree: absolute, normalised, UTF-8. `/` is the root.

use super::TreeError;

/// Longest chain of symbolic links that is followed, as in the kernel.
pub(super) const LINKS_MAXIMUM: u32 = 40;

/// Checks a path as our own code writes it: absolute, no empty, `.` or `..` part, no NUL. A slash at
/// the end is dropped.
///
/// # Errors
/// [`TreeError::Path`] with the reason.
pub fn normalise(path: &str) -> Result<String, TreeError> {
    let Some(relative) = path.strip_prefix('/') else {
        return Err(TreeError::path(path, "is not absolute"));
    };
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    if relative.is_empty() {
        return if path == "//" { Err(TreeError::path(path, "has an empty part")) } else { Ok("/".to_owned()) };
    }
    check_parts(path, relative)?;
    Ok(format!("/{relative}"))
}

/// Path of an archive's member: relative, with or without a leading `./`; `.` is the root.
///
/// # Errors
/// [`TreeError::Path`]: an absolute name, a `..` part, a NUL, not UTF-8.
pub fn from_member(name: &[u8]) -> Result<String, TreeError> {
    let shown = String::from_utf8_lossy(name);
    let name = std::str::from_utf8(name).map_err(|_| TreeError::path(&shown, "is not UTF-8"))?;
    if name.starts_with('/') {
        return Err(TreeError::path(name, "is absolute; an archive's members are relative"));
    }
    let relative = if name == "." { "" } else { name.trim_start_matches("./") };
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    if relative.is_empty() {
        return Ok("/".to_owned());
    }
    check_parts(name, relative)?;
    Ok(format!("/{relative}"))
}

fn check_parts(shown: &str, relative: &str) -> Result<(), TreeError> {
    for part in relative.split('/') {
        let reason = match part {
            "" => "has an empty part",
            "." => "has a part `.`",
            ".." => "has a part `..`, which could lead out of the tree",
            _ if part.contains('\0') => "has a NUL byte",
            _ if part.len() > 255 => "has a part of more than 255 bytes",
            _ => continue,
        };
        return Err(TreeError::path(shown, reason));
    }
    Ok(())
}

/// Parent and last part of a normalised path; `None` for the root.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() { None } else { Some((if parent.is_empty() { "/" } else { parent }, name)) }
}

/// `parent` and `name` as one path.
pub fn join(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

/// The parent of `path`, `/` for the root itself.
pub fn parent(path: &str) -> &str {
    split(path).map_or("/", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sound_paths_stay_as_they_are(path in "(/[a-zA-Z0-9_.+-]{1,12}[a-z]){1,5}") {
            prop_assert_eq!(normalise(&path).unwrap(), path.clone());
            prop_assert_eq!(normalise(&format!("{path}/")).unwrap(), path.clone());
            prop_assert_eq!(from_member(&path.as_bytes()[1..]).unwrap(), path.clone());
            prop_assert_eq!(from_member(format!(".{path}").as_bytes()).unwrap(), path.clone());
            let (parent, name) = split(&path).unwrap();
            prop_assert_eq!(join(parent, name), path);
        }

        #[test]
        fn what_is_accepted_is_normal(path in "[/.a\0]{0,12}") {
            if let Ok(normal) = normalise(&path) {
                let parts = normal.strip_prefix('/').unwrap();
                let sound = |part: &str| !["", ".", ".."].contains(&part) && !part.contains('\0');
                prop_assert!(normal == "/" || parts.split('/').all(sound));
                prop_assert_eq!(normalise(&normal).unwrap(), normal);
            }
            if let Ok(normal) = from_member(path.as_bytes()) {
                prop_assert_eq!(normalise(&normal).unwrap(), normal);
            }
        }
    }

    #[test]
    fn what_could_lead_out_is_refused_by_name() {
        for path in ["", "usr", "/..", "/usr/../etc", "//", "/usr//lib", "/./usr", "/a\0b", "///"] {
            assert!(normalise(path).is_err(), "{path:?}");
        }
        for member in ["../x", "/etc/passwd", "usr/../../etc", "a//b", "./../x", "..", "//x"] {
            let message = from_member(member.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(member), "{message}");
        }
        for member in ["", ".", "./"] {
            assert_eq!(from_member(member.as_bytes()).unwrap(), "/");
        }
    }
}
