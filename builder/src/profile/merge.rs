//! The tree of a profile's values with their origins, and the merge: later wins key by key, lists
//! append without repeating, entries of a named kind (a port, a user, a file) are replaced whole.

use super::{Origin, Value, path};
use crate::error::{Error, Place, Result, Source};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Tables whose entries are one thing each: half a port from one file and half from another would
/// be neither's intention.
const WHOLE_ENTRIES: [&str; 6] = ["files", "images", "ports", "sysctl", "urls", "users"];

/// A value, list or table, each part with its origin.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Leaf(toml::Value, Origin),
    List(Vec<(toml::Value, Origin)>, Origin),
    Table(BTreeMap<String, Node>, Origin),
}

impl Node {
    /// The tree of a parsed file.
    pub(super) fn of_table(source: &Arc<Source>, table: &DeTable<'_>) -> Node {
        let origin = Origin::File(Place { source: source.clone(), span: 0..0 });
        Node::Table(children(source, table), origin)
    }

    fn of_value(source: &Arc<Source>, value: &Spanned<DeValue<'_>>, key: &std::ops::Range<usize>) -> Node {
        let origin = Origin::File(Place { source: source.clone(), span: value.span() });
        match value.get_ref() {
            // A table is pointed at by its key: its span may be far from where it is named.
            DeValue::Table(table) => {
                Node::Table(children(source, table), Origin::File(Place { source: source.clone(), span: key.clone() }))
            }
            DeValue::Array(array) => {
                let place = |element: &Spanned<DeValue<'_>>| Place { source: source.clone(), span: element.span() };
                let elements = array.iter().map(|element| (plain(element.get_ref()), Origin::File(place(element))));
                Node::List(elements.collect(), origin)
            }
            scalar => Node::Leaf(plain(scalar), origin),
        }
    }

    /// Lays `later` over this node; `keys` is where it is.
    fn overlay(&mut self, later: Node, keys: &mut Vec<String>) {
        match (self, later) {
            (Node::Table(table, _), Node::Table(later, _)) if !is_whole(keys) => {
                for (key, node) in later {
                    keys.push(key.clone());
                    match table.get_mut(&key) {
                        Some(earlier) => earlier.overlay(node, keys),
                        None => {
                            table.insert(key, node);
                        }
                    }
                    keys.pop();
                }
            }
            (Node::List(list, _), Node::List(later, _)) => {
                for (value, origin) in later {
                    if !list.iter().any(|(known, _)| *known == value) {
                        list.push((value, origin));
                    }
                }
            }
            (earlier, later) => *earlier = later,
        }
    }

    /// Removes a key of a table and gives its node.
    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        match self {
            Node::Table(table, _) => table.remove(key),
            _ => None,
        }
    }

    /// The node of a key of a table.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match self {
            Node::Table(table, _) => table.get_mut(key),
            _ => None,
        }
    }

    /// The nodes of a table's entries.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        match self {
            Node::Table(table, _) => Some(table.values_mut()),
            _ => None,
        }
        .into_iter()
        .flatten()
    }

    /// The texts of a list, or of a single text, to be changed in place.
    pub(super) fn texts_mut(&mut self) -> Vec<(&mut String, &Origin)> {
        let pairs: Vec<(&mut toml::Value, &Origin)> = match self {
            Node::Leaf(value, origin) => vec![(value, origin)],
            Node::List(list, _) => list.iter_mut().map(|(value, origin)| (value, &*origin)).collect(),
            Node::Table(..) => Vec::new(),
        };
        let text = |(value, origin)| match value {
            &mut toml::Value::String(ref mut text) => Some((text, origin)),
            _ => None,
        };
        pairs.into_iter().filter_map(text).collect()
    }

    fn to_toml(&self) -> toml::Value {
        match self {
            Node::Leaf(value, _) => value.clone(),
            Node::List(list, _) => toml::Value::Array(list.iter().map(|(value, _)| value.clone()).collect()),
            Node::Table(table, _) => {
                toml::Value::Table(table.iter().map(|(key, node)| (key.clone(), node.to_toml())).collect())
            }
        }
    }

    /// The typed profile.
    pub(super) fn to_profile(&self) -> Result<spec::profile::Profile> {
        self.to_toml().try_into().map_err(|error| Error::because("the merged profile is not a profile", error))
    }

    /// Every scalar and list element with its path.
    pub(super) fn values(&self) -> Vec<Value> {
        let mut values = Vec::new();
        self.visit(&mut Vec::new(), &mut |path, node| match node {
            Node::Leaf(value, origin) => values.push(Value { path, value: value.clone(), origin: origin.clone() }),
            Node::List(list, _) => values.extend(list.iter().enumerate().map(|(index, (value, origin))| Value {
                path: format!("{path}[{index}]"),
                value: value.clone(),
                origin: origin.clone(),
            })),
            Node::Table(table, origin) if table.is_empty() && !path.is_empty() => {
                values.push(Value { path, value: toml::Value::Table(toml::Table::new()), origin: origin.clone() });
            }
            Node::Table(..) => {}
        });
        values
    }

    /// Origins of the tables and of the lists as such.
    pub(super) fn table_origins(&self) -> BTreeMap<String, Origin> {
        let mut origins = BTreeMap::new();
        self.visit(&mut Vec::new(), &mut |path, node| match node {
            Node::Table(_, origin) | Node::List(_, origin) => {
                origins.insert(path, origin.clone());
            }
            Node::Leaf(..) => {}
        });
        origins
    }

    fn visit<'a>(&'a self, keys: &mut Vec<&'a str>, visitor: &mut dyn FnMut(String, &Node)) {
        visitor(path(keys), self);
        if let Node::Table(table, _) = self {
            for (key, node) in table {
                keys.push(key);
                node.visit(keys, visitor);
                keys.pop();
            }
        }
    }
}

/// Merges trees in order; later ones win.
pub(super) fn merge(trees: impl Iterator<Item = Node>) -> Node {
    let mut merged = Node::Table(BTreeMap::new(), Origin::Default);
    for tree in trees {
        merged.overlay(tree, &mut Vec::new());
    }
    merged
}

fn is_whole(keys: &[String]) -> bool {
    keys.len() == 2 && WHOLE_ENTRIES.contains(&keys[0].as_str())
}

fn children(source: &Arc<Source>, table: &DeTable<'_>) -> BTreeMap<String, Node> {
    table.iter().map(|(key, value)| (key.get_ref().to_string(), Node::of_value(source, value, &key.span()))).collect()
}

/// A value without places. The schema knows no floats and dates: the typed reading has refused them.
fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => toml::Value::Integer(number),
            Err(_) => toml::Value::String(number.as_str().to_owned()),
        },
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Float(number) => toml::Value::String(number.as_str().to_owned()),
        DeValue::Datetime(moment) => toml::Value::Datetime(*moment),
        DeValue::Array(array) => toml::Value::Array(array.iter().map(|element| plain(element.get_ref())).collect()),
        DeValue::Table(table) => toml::Value::Table(
            table.iter().map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref()))).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tree(name: &str, text: &str) -> Node {
        let source = Source::new(Path::new(name), name, text);
        let table = DeTable::parse(&source.text).unwrap();
        Node::of_table(&source, table.get_ref())
    }

    fn merged(texts: &[(&str, &str)]) -> Node {
        merge(texts.iter().map(|(name, text)| tree(name, text)))
    }

    #[test]
    fn later_scalars_win_and_lists_append_without_repeating() {
        let node = merged(&[
            ("a.toml", "timezone = \"UTC\"\n[debian]\npackages = [\"x\", \"y\"]\n"),
            ("b.toml", "timezone = \"Asia/Shanghai\"\n[debian]\npackages = [\"y\", \"z\"]\n"),
        ]);
        let profile = node.to_profile().unwrap();
        assert_eq!(profile.timezone.as_deref(), Some("Asia/Shanghai"));
        assert_eq!(profile.debian.packages, ["x", "y", "z"]);
        let origins: Vec<String> =
            node.values().iter().map(|value| format!("{} {}", value.path, value.origin)).collect();
        assert_eq!(
            origins,
            [
                "debian.packages[0] a.toml:3",
                "debian.packages[1] a.toml:3",
                "debian.packages[2] b.toml:3",
                "timezone b.toml:1"
            ]
        );
    }

    #[test]
    fn a_port_is_replaced_whole() {
        let node = merged(&[
            ("a.toml", "[ports.x]\nport = \"1\"\nprotocol = \"udp\"\nfrom = [\"private\"]\ndescription = \"a\"\n"),
            ("b.toml", "[ports.x]\nport = \"2\"\ndescription = \"b\"\n"),
        ]);
        let port = &node.to_profile().unwrap().ports["x"];
        assert_eq!((port.port.as_str(), port.protocol.as_str(), port.from.len()), ("2", "tcp", 0));
    }

    #[test]
    fn a_components_choices_append() {
        let node = merged(&[
            ("a.toml", "[components.containerd]\n"),
            ("b.toml", "[components.containerd]\nwith = [\"ctr\"]\n"),
        ]);
        assert_eq!(node.to_profile().unwrap().components["containerd"].with, ["ctr"]);
    }
}
