//! Control files: paragraphs of `Name: value` lines, deb822(5), and the relations in their values,
//! Debian Policy chapter 7.

use super::version;
use std::cmp::Ordering;
use std::fmt;

/// A paragraph, borrowed from the text: fields in order; a value keeps its continuation lines, joined by newlines.
#[derive(Debug, Default)]
pub struct Paragraph<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Paragraph<'a> {
    /// Value of a field, its name in any case, without the white space around it.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// A value that is a list of white-space-separated words; empty when absent.
    pub fn words(&self, name: &str) -> Vec<String> {
        self.get(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }
}

/// The paragraphs of a text. Comments (`#` at the start of a line) and lines that are no field are skipped.
pub fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let (paragraph, after) = next_paragraph(rest);
            rest = after;
            if !paragraph.fields.is_empty() {
                return Some(paragraph);
            }
        }
    })
}

fn next_paragraph(text: &str) -> (Paragraph<'_>, &str) {
    let mut paragraph = Paragraph::default();
    let mut position = 0;
    // Name and the range of the value of the field being read.
    let mut current: Option<(&str, usize, usize)> = None;
    for line in text.split_inclusive('\n') {
        let start = position;
        position += line.len();
        let content = line.trim_end_matches(['\n', '\r']);
        if content.trim().is_empty() {
            break;
        }
        if content.starts_with('#') {
            continue;
        }
        if content.starts_with([' ', '\t']) {
            if let Some((_, _, end)) = &mut current {
                *end = start + content.len();
            }
            continue;
        }
        if let Some((name, from, to)) = current.take() {
            paragraph.fields.push((name, &text[from..to]));
        }
        current = content.split_once(':').map(|(name, _)| (name, start + name.len() + 1, start + content.len()));
    }
    if let Some((name, from, to)) = current {
        paragraph.fields.push((name, &text[from..to]));
    }
    (paragraph, &text[position..])
}

/// How a version is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Operator {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "<<" => Operator::Earlier,
            "<=" | "<" => Operator::EarlierOrEqual,
            "=" => Operator::Equal,
            ">=" | ">" => Operator::LaterOrEqual,
            ">>" => Operator::Later,
            _ => return None,
        })
    }

    const fn text(self) -> &'static str {
        match self {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterOrEqual => ">=",
            Operator::Later => ">>",
        }
    }
}

/// One alternative of a relation: a package, real or virtual, and what its version must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub name: String,
    pub version: Option<(Operator, String)>,
}

impl Relation {
    /// `name`, `name:any`, `name (>= 1.0)`; architecture lists and build profiles are not of binary packages.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split(['[', '<']).next().filter(|_| !text.contains('(')).unwrap_or(text).trim();
        let (name, version) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => {
                let condition = rest.split_once(')')?.0.trim();
                let length = condition.bytes().take_while(|byte| matches!(byte, b'<' | b'>' | b'=')).count();
                let operator = Operator::parse(&condition[..length])?;
                (name, Some((operator, condition[length..].trim().to_owned())))
            }
        };
        // Only one architecture is ever installed: `:any` and `:native` say nothing here.
        let name = name.trim().split(':').next().unwrap_or_default();
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_');
        if name.is_empty() || !name.bytes().all(sound) {
            return None;
        }
        Some(Relation { name: name.to_owned(), version })
    }

    /// Whether a real package's version will do.
    pub fn admits(&self, found: &str) -> bool {
        let Some((operator, wanted)) = &self.version else { return true };
        let order = version::compare(found, wanted);
        match operator {
            Operator::Earlier => order == Ordering::Less,
            Operator::EarlierOrEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::LaterOrEqual => order != Ordering::Less,
            Operator::Later => order == Ordering::Greater,
        }
    }

    /// Whether something that is provided, with or without a version, will do, Policy 7.5.
    pub fn admits_provided(&self, provided: Option<&str>) -> bool {
        match (&self.version, provided) {
            (None, _) => true,
            (Some(_), Some(version)) => self.admits(version),
            (Some(_), None) => false,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        match &self.version {
            Some((operator, version)) => write!(formatter, " ({} {version})", operator.text()),
            None => Ok(()),
        }
    }
}

/// Alternatives, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternatives(pub Vec<Relation>);

impl fmt::Display for Alternatives {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, relation) in self.0.iter().enumerate() {
            let separator = if index > 0 { " | " } else { "" };
            write!(formatter, "{separator}{relation}")?;
        }
        Ok(())
    }
}

/// The value of Depends, Provides, Conflicts and so on; on error gives the part that cannot be read.
pub fn relations(text: &str) -> Result<Vec<Alternatives>, String> {
    let groups = text.split(',').map(str::trim).filter(|group| !group.is_empty());
    groups
        .map(|group| {
            let alternatives: Option<Vec<Relation>> = group.split('|').map(Relation::parse).collect();
            alternatives.map(Alternatives).ok_or_else(|| group.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paragraphs_keep_continuations_and_skip_comments() {
        let text = "# head\n\nPackage: a\nDepends: b,\n c (>= 1)\n# no\nSize: 5\n\n\npackage: z\r\n";
        let all: Vec<Paragraph<'_>> = paragraphs(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("Depends"), Some("b,\n c (>= 1)"));
        assert_eq!(all[0].get("size"), Some("5"));
        assert_eq!(all[1].get("Package"), Some("z"));
    }

    #[test]
    fn relations_are_read_with_versions_alternatives_and_qualifiers() {
        let groups = relations("libc6 (>= 2.38), python3:any, a | b (<< 2), c (= 1:2-3) [amd64]").unwrap();
        let text: Vec<String> = groups.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["libc6 (>= 2.38)", "python3", "a | b (<< 2)", "c (= 1:2-3)"]);
        assert_eq!(relations("a (~ 1)").unwrap_err(), "a (~ 1)");
        assert_eq!(relations("a b").unwrap_err(), "a b");
    }

    #[test]
    fn an_unversioned_provision_does_not_answer_a_versioned_relation() {
        let relation = Relation::parse("mta (>= 2)").unwrap();
        assert!(!relation.admits_provided(None));
        assert!(relation.admits_provided(Some("2.1")));
        assert!(!relation.admits_provided(Some("1.9")));
    }

    proptest! {
        #[test]
        fn a_relation_survives_its_text(name in "[a-z0-9][a-z0-9+.-]{1,10}", operator in 0usize..6, version in "[0-9][0-9a-z.+~-]{0,6}") {
            let operators = [Operator::Earlier, Operator::EarlierOrEqual, Operator::Equal, Operator::LaterOrEqual, Operator::Later];
            let relation = Relation { name, version: operators.get(operator).map(|operator| (*operator, version)) };
            prop_assert_eq!(Relation::parse(&relation.to_string()), Some(relation));
        }

        #[test]
        fn foreign_text_never_panics(text in "[ -~é\n\t]{0,60}") {
            let _ = relations(&text);
            let _ = paragraphs(&text).count();
        }
    }
}
