//! Where each value of a TOML file stands, by path: `machine[1].network.address`.

use crate::error::{Place, Source};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// Places by path; tables are pointed at by their key or header, lists also by element.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// The places of a text that is TOML; of another, none.
    pub fn of(source: &Arc<Source>) -> Places {
        let mut places = Places::default();
        if let Ok(table) = DeTable::parse(&source.text) {
            places.table(source, "", table.get_ref());
        }
        places
    }

    /// The place of a value, or else of what it would be in: a missing key is looked for in its table.
    pub fn get(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    fn table(&mut self, source: &Arc<Source>, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let dot = if path.is_empty() { "" } else { "." };
            let below = format!("{path}{dot}{}", key.get_ref());
            self.value(source, below, value.get_ref(), value.span(), key.span());
        }
    }

    fn value(
        &mut self,
        source: &Arc<Source>,
        path: String,
        value: &DeValue<'_>,
        span: Range<usize>,
        key: Range<usize>,
    ) {
        match value {
            DeValue::Table(table) => {
                self.table(source, &path, table);
                self.insert(source, path, key);
            }
            DeValue::Array(array) => {
                for (index, element) in array.iter().enumerate() {
                    // An element of an array of tables has its header as its span.
                    self.value(source, format!("{path}[{index}]"), element.get_ref(), element.span(), element.span());
                }
                self.insert(source, path, span);
            }
            _ => self.insert(source, path, span),
        }
    }

    fn insert(&mut self, source: &Arc<Source>, path: String, span: Range<usize>) {
        self.0.insert(path, Place { source: source.clone(), span });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn values_elements_and_missing_keys_have_places() {
        let text = "name = \"x\"\n\n[[machine]]\nname = \"a\"\n\n[[machine]]\nname = \"b\"\nnetwork = { dns = [\"1\", \"2\"] }\n";
        let source = Source::new(Path::new("c.toml"), "c.toml", text);
        let places = Places::of(&source);
        let line = |path: &str| places.get(path).map(Place::line);
        assert_eq!(line("name"), Some(1));
        assert_eq!(line("machine[0]"), Some(3));
        assert_eq!(line("machine[1].name"), Some(7));
        assert_eq!(line("machine[1].network.dns[1]"), Some(8));
        assert_eq!(line("machine[1].mac"), Some(6), "a missing key points at its table");
        assert_eq!(line("domain"), None);
    }
}
