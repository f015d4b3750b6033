//! Links on the way, overlays, and archives that try to lead out.

use super::*;
use proptest::prelude::*;

fn origin() -> Arc<str> {
    "test".into()
}

fn file(text: &str) -> Node {
    Node::file(text, 0o644, &origin())
}

fn text(tree: &Tree, path: &str) -> String {
    String::from_utf8(tree.get(path).unwrap().content().unwrap().read().unwrap().to_vec()).unwrap()
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.iter().map(|(path, _)| path).collect()
}

fn merged_usr() -> Tree {
    let mut tree = Tree::new();
    tree.insert("/usr/lib", Node::directory(&origin())).unwrap();
    tree.insert("/lib", Node::symlink("usr/lib", &origin())).unwrap();
    tree
}

#[test]
fn parents_are_implied() {
    let mut tree = Tree::new();
    tree.insert("/usr/share/doc/x", file("x").owned_by(3, 4)).unwrap();
    assert_eq!(paths(&tree), ["/", "/usr", "/usr/share", "/usr/share/doc", "/usr/share/doc/x"]);
    assert_eq!((tree.get("/usr").unwrap().mode, tree.get("/usr").unwrap().uid), (0o755, 0));
    assert_eq!(tree.total_size(), 1);
}

#[test]
fn below_a_linked_directory_lands_in_its_target() {
    let mut tree = merged_usr();
    assert_eq!(tree.insert("/lib/modules/a.ko", file("a")).unwrap(), "/usr/lib/modules/a.ko");
    assert_eq!(tree.insert("/lib", Node::directory(&origin())).unwrap(), "/usr/lib", "the link stays");
    assert!(matches!(tree.get("/lib").unwrap().kind, Kind::Symlink(_)));
    assert_eq!(tree.resolve("/lib/modules/a.ko").unwrap(), "/usr/lib/modules/a.ko");
    assert_eq!(tree.remove("/lib/modules"), 2);
    assert!(tree.find("/lib/modules/a.ko").is_none());
}

#[test]
fn links_with_dots_and_chains_are_followed() {
    let mut tree = merged_usr();
    tree.insert("/usr/bin/deep/link", Node::symlink("../../../lib/./x", &origin())).unwrap();
    assert_eq!(tree.insert("/usr/bin/deep/link/file", file("f")).unwrap(), "/usr/lib/x/file");
    tree.insert("/absolute", Node::symlink("/lib", &origin())).unwrap();
    assert_eq!(tree.insert("/absolute/y", file("y")).unwrap(), "/usr/lib/y");
}

#[test]
fn a_link_out_of_the_root_and_a_loop_are_refused_by_name() {
    let mut tree = Tree::new();
    tree.insert("/out", Node::symlink("../../etc", &origin())).unwrap();
    let message = tree.insert("/out/passwd", file("x")).unwrap_err().to_string();
    assert!(message.contains("/out/passwd") && message.contains("/out -> ../../etc"), "{message}");
    tree.insert("/loop", Node::symlink("loop", &origin())).unwrap();
    assert!(matches!(tree.insert("/loop/x", file("x")), Err(TreeError::LinkLoop { .. })));
    assert_eq!(tree.resolve("/loop"), None);
}

#[test]
fn what_is_in_the_way_is_named_with_its_origin() {
    let mut tree = Tree::new();
    tree.insert("/etc/hosts", file("x")).unwrap();
    let below_a_file = tree.insert("/etc/hosts/x", file("x")).unwrap_err().to_string();
    assert!(below_a_file.contains("/etc/hosts is a file") && below_a_file.contains("from test"), "{below_a_file}");
    let over_a_directory = tree.insert("/etc", file("x")).unwrap_err().to_string();
    assert!(over_a_directory.contains("/etc cannot be placed"), "{over_a_directory}");
    assert!(matches!(tree.insert("/etc/hosts", Node::directory(&origin())), Err(TreeError::NotADirectory { .. })));
}

#[test]
fn merging_lets_later_files_win_and_directories_stay() {
    let mut base = merged_usr();
    base.insert("/etc", Node { mode: 0o700, ..Node::directory(&origin()) }).unwrap();
    base.insert("/etc/hosts", file("base")).unwrap();
    let mut overlay = Tree::new();
    overlay.insert("/etc/hosts", file("overlay")).unwrap();
    overlay.insert("/lib/new", file("new")).unwrap();
    base.merge(&overlay).unwrap();
    assert_eq!(text(&base, "/etc/hosts"), "overlay");
    assert_eq!(base.get("/etc").unwrap().mode, 0o700);
    assert_eq!(text(&base, "/usr/lib/new"), "new");
}

#[test]
fn names_that_sort_between_a_directory_and_its_children_stay_outside() {
    let mut tree = Tree::new();
    for path in ["/a/b", "/a-b", "/a.c", "/a/c/d", "/a0"] {
        tree.insert(path, file("x")).unwrap();
    }
    assert_eq!(tree.below("/a").map(|(path, _)| path).collect::<Vec<_>>(), ["/a/b", "/a/c", "/a/c/d"]);
    tree.retain(|path, _| path != "/a");
    assert_eq!(paths(&tree), ["/", "/a-b", "/a.c", "/a0"]);
    assert_eq!(tree.remove("/"), 3);
    assert!(tree.is_empty());
}

#[test]
fn a_tar_of_foreign_make_cannot_lead_out() {
    let member = |name: &str, kind: tar::EntryType, link: &str| {
        let mut header = tar::Header::new_ustar();
        // Written by hand: the crate itself would refuse such names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    use tar::EntryType::{Link, Regular, Symlink};
    type Member = (&'static str, tar::EntryType, &'static str);
    let bad: [(&[Member], &str); 6] = [
        (&[("../evil", Regular, "")], "../evil"),
        (&[("/etc/evil", Regular, "")], "/etc/evil"),
        (&[("usr/../../evil", Regular, "")], "usr/../../evil"),
        (&[("out", Symlink, "../../tmp"), ("out/evil", Regular, "")], "/out/evil"),
        (&[("hard", Link, "../../etc/shadow")], "../../etc/shadow"),
        (&[("hard", Link, "not/there")], "/hard"),
    ];
    for (members, named) in bad {
        let mut bytes: Vec<u8> = members.iter().flat_map(|(name, kind, link)| member(name, *kind, link)).collect();
        bytes.extend([0; 1024]);
        let mut tree = Tree::new();
        let message = tree.read_tar(bytes.as_slice(), &"evil.deb".into()).unwrap_err().to_string();
        let error = tree.read_tar(bytes.as_slice(), &"evil.deb".into()).unwrap_err();
        let whole = format!("{message}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(whole.contains("evil.deb") && whole.contains(named), "{whole}");
        assert!(!tree.iter().any(|(path, _)| path.contains("evil")), "nothing was placed");
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Directory),
        proptest::collection::vec(any::<u8>(), 0..1500).prop_map(|bytes| Kind::File(bytes.into())),
        "[a-z/.]{1,150}".prop_map(Kind::Symlink),
        (0..4096u32, 0..4096u32).prop_map(|(major, minor)| Kind::CharDevice(major, minor)),
        Just(Kind::Fifo),
    ]
}

/// Trees with long names, every kind, and any owner and mode.
pub(crate) fn trees() -> impl Strategy<Value = Tree> {
    let name = prop_oneof!["[a-c]", "[a-z]{1,20}", "[a-z]{90,120}"];
    let path = proptest::collection::vec(name, 1..5).prop_map(|parts| format!("/{}", parts.join("/")));
    let node = (kinds(), 0..0o10000u32, 0..70_000u32, 0..70_000u32);
    proptest::collection::vec((path, node), 0..20).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, (kind, mode, uid, gid)) in entries {
            let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode };
            let _ = tree.insert(&path, Node { kind, mode, uid, gid, origin: origin() });
        }
        tree
    })
}

/// One line a node, with everything that an archive must keep.
pub(crate) fn listing(tree: &Tree) -> Vec<String> {
    let line = |(path, node): (&str, &Node)| {
        let content = node.content().map(|content| content.sha256().unwrap());
        let kind = match &node.kind {
            Kind::Symlink(target) => format!("-> {target}"),
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => format!("{major}:{minor}"),
            other => other.noun().to_owned(),
        };
        format!("{path} {kind} {:o} {}:{} {content:?}", node.mode, node.uid, node.gid)
    };
    tree.iter().map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_tree_comes_back_from_its_tar(tree in trees()) {
        let bytes = tree.write_tar(Vec::new(), 1_700_000_000).unwrap();
        let mut back = Tree::new();
        back.read_tar(bytes.as_slice(), &origin()).unwrap();
        prop_assert_eq!(listing(&back), listing(&tree));
        prop_assert_eq!(tree.write_tar(Vec::new(), 1_700_000_000).unwrap(), bytes);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Tree::new().read_tar(bytes.as_slice(), &origin());
    }

    #[test]
    fn every_node_has_its_parent_directory(tree in trees()) {
        for (path, _) in tree.iter() {
            prop_assert!(tree.get(path::parent(path)).unwrap().is_directory());
        }
    }
}
