//! Which packages a list needs: deterministic, for pinned suites merged into one index, where of each
//! package only the highest version counts. Recommends are not followed, Essential is not implied.
//!
//! The same request and index give the same answer: what was asked for comes first, then relations
//! without a choice, and only then alternatives, each settled by what is already there before
//! anything new is taken.

use super::Error;
use super::control::{Alternatives, Relation};
use super::index::{Index, Package, read_relations};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A chosen package and who asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen<'a> {
    pub package: &'a Package,
    pub asked_by: String,
}

/// Who the operator is, in messages.
const PROFILE: &str = "the profile";

/// All that `wanted` needs, by name. `excluded` packages are never taken: a relation whose first available
/// alternative is one of them counts as satisfied.
///
/// # Errors
/// A package that does not exist, a relation that nothing satisfies, or packages in conflict; each names
/// who asked.
pub fn resolve<'a>(
    index: &'a Index,
    wanted: &[String],
    excluded: &[String],
) -> Result<BTreeMap<String, Chosen<'a>>, Error> {
    let mut solver = Solver {
        index,
        excluded: excluded.iter().cloned().collect(),
        chosen: BTreeMap::new(),
        provided: BTreeMap::new(),
        fresh: VecDeque::new(),
    };
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    for name in wanted.into_iter().filter(|name| !excluded.iter().any(|excluded| excluded == name)) {
        solver.want(name)?;
    }
    solver.run()?;
    solver.check_conflicts()?;
    Ok(solver.chosen)
}

struct Solver<'a> {
    index: &'a Index,
    excluded: BTreeSet<String>,
    chosen: BTreeMap<String, Chosen<'a>>,
    /// Virtual name -> versions provided by chosen packages, and by whom.
    provided: BTreeMap<String, Vec<(&'a str, Option<String>)>>,
    /// Chosen packages whose relations have not been looked at.
    fresh: VecDeque<&'a Package>,
}

impl<'a> Solver<'a> {
    fn want(&mut self, name: &str) -> Result<(), Error> {
        if let Some(package) = self.index.candidate(name) {
            return self.take(package, PROFILE.to_owned());
        }
        let provider = self.index.providers(name).iter().find(|(provider, _)| !self.is_excluded(provider));
        match provider.and_then(|(provider, _)| self.index.candidate(provider)) {
            Some(package) => self.take(package, PROFILE.to_owned()),
            None => Err(self.unknown(name, PROFILE.to_owned())),
        }
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut choices: VecDeque<(Alternatives, &'a Package)> = VecDeque::new();
        loop {
            while let Some(package) = self.fresh.pop_front() {
                for group in read_relations(&package.name, "Depends", &package.depends)? {
                    if group.0.len() > 1 || self.index.candidate(&group.0[0].name).is_none() {
                        choices.push_back((group, package));
                    } else {
                        self.settle(&group, package)?;
                    }
                }
            }
            match choices.pop_front() {
                Some((group, package)) => self.settle(&group, package)?,
                None => return Ok(()),
            }
        }
    }

    fn settle(&mut self, group: &Alternatives, asker: &'a Package) -> Result<(), Error> {
        if group.0.iter().any(|relation| self.is_satisfied(relation)) {
            return Ok(());
        }
        for relation in &group.0 {
            if self.is_excluded(&relation.name) {
                return Ok(());
            }
            let candidates = self.candidates(relation);
            let available = candidates.iter().find(|package| !self.is_excluded(&package.name));
            match available {
                Some(package) => return self.take(package, asker.name.clone()),
                None if !candidates.is_empty() => return Ok(()),
                None => {}
            }
        }
        Err(self.unsatisfied(group, asker))
    }

    /// The package of that name, then those that provide it; all with a version that will do.
    fn candidates(&self, relation: &Relation) -> Vec<&'a Package> {
        let real = self.index.candidate(&relation.name).filter(|package| relation.admits(&package.version));
        let providers = self.index.providers(&relation.name).iter();
        let providers = providers.filter(|(_, version)| relation.admits_provided(version.as_deref()));
        real.into_iter().chain(providers.filter_map(|(name, _)| self.index.candidate(name))).collect()
    }

    fn is_excluded(&self, name: &str) -> bool {
        self.excluded.contains(name)
    }

    fn is_satisfied(&self, relation: &Relation) -> bool {
        let real = self.chosen.get(&relation.name).is_some_and(|chosen| relation.admits(&chosen.package.version));
        let provided = self.provided.get(&relation.name).is_some_and(|provisions| {
            provisions.iter().any(|(_, version)| relation.admits_provided(version.as_deref()))
        });
        real || provided
    }

    fn take(&mut self, package: &'a Package, asked_by: String) -> Result<(), Error> {
        if self.chosen.contains_key(&package.name) {
            return Ok(());
        }
        for relation in
            read_relations(&package.name, "Provides", &package.provides)?.into_iter().flat_map(|group| group.0)
        {
            let version = relation.version.map(|(_, version)| version);
            self.provided.entry(relation.name).or_default().push((&package.name, version));
        }
        self.chosen.insert(package.name.clone(), Chosen { package, asked_by });
        self.fresh.push_back(package);
        Ok(())
    }

    fn check_conflicts(&self) -> Result<(), Error> {
        for chosen in self.chosen.values() {
            let package = chosen.package;
            let groups = read_relations(&package.name, "Conflicts", &package.conflicts)?;
            for relation in groups.into_iter().flat_map(|group| group.0) {
                // A package never conflicts with itself, also not through what it provides, Policy 7.4.
                let real = self.chosen.get(&relation.name).filter(|other| relation.admits(&other.package.version));
                let provider = self.provided.get(&relation.name).into_iter().flatten();
                let provider = provider
                    .filter(|(name, version)| *name != package.name && relation.admits_provided(version.as_deref()))
                    .find_map(|(name, _)| self.chosen.get(*name));
                let real = real.filter(|other| other.package.name != package.name);
                if let Some(other) = real.or(provider) {
                    return Err(Error::Conflict {
                        name: package.name.clone(),
                        relation: relation.to_string(),
                        other: other.package.name.clone(),
                        asked_by: format!("{}, and {}", self.chain(&package.name), self.chain(&other.package.name)),
                    });
                }
            }
        }
        Ok(())
    }

    fn unsatisfied(&self, group: &Alternatives, asker: &Package) -> Error {
        let known: Vec<String> = group
            .0
            .iter()
            .filter_map(|relation| self.index.candidate(&relation.name))
            .map(|package| format!("{} is there in version {}", package.name, package.version))
            .collect();
        let asked_by = self.chain(&asker.name);
        if known.is_empty() {
            return self.unknown(&group.to_string(), asked_by);
        }
        Error::Unsatisfied { relation: group.to_string(), asked_by, reason: known.join(", ") }
    }

    fn unknown(&self, name: &str, asked_by: String) -> Error {
        let suites: Vec<&str> = self.index.suites.iter().map(|suite| suite.name.as_str()).collect();
        let suites = if suites.is_empty() { "the index".to_owned() } else { suites.join(", ") };
        Error::UnknownPackage { name: name.to_owned(), suites, asked_by }
    }

    /// `nftables <- crun <- the profile`
    fn chain(&self, name: &str) -> String {
        let mut chain = vec![name.to_owned()];
        while let Some(chosen) = chain.last().and_then(|name| self.chosen.get(name)) {
            chain.push(chosen.asked_by.clone());
        }
        chain.join(" <- ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(name: &str, version: &str, fields: &str) -> String {
        let digest = "0".repeat(64);
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}.deb\nSize: 1\nSHA256: {digest}\n{fields}\n\n"
        )
    }

    fn index(packages: &[(&str, &str, &str)]) -> Index {
        let text: String = packages.iter().map(|(name, version, fields)| package(name, version, fields)).collect();
        Index::of_texts(&[("trixie", &text)]).unwrap()
    }

    fn solve(index: &Index, wanted: &[&str], excluded: &[&str]) -> Result<Vec<String>, String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let excluded = own(excluded);
        let chosen = resolve(index, &own(wanted), &excluded).map_err(|error| error.to_string())?;
        Ok(chosen.keys().cloned().collect())
    }

    #[test]
    fn dependencies_are_followed_and_recommends_are_not() {
        let index = index(&[
            ("a", "1", "Depends: b (>= 1), c:any\nPre-Depends: d\nRecommends: e"),
            ("b", "1", ""),
            ("c", "1", ""),
            ("d", "1", ""),
            ("e", "1", ""),
        ]);
        assert_eq!(solve(&index, &["a"], &[]).unwrap(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn an_alternative_that_is_already_there_wins() {
        let index = index(&[("a", "1", "Depends: x | y"), ("x", "1", ""), ("y", "1", ""), ("z", "1", "Depends: y")]);
        assert_eq!(solve(&index, &["a"], &[]).unwrap(), ["a", "x"]);
        assert_eq!(solve(&index, &["a", "z"], &[]).unwrap(), ["a", "y", "z"]);
    }

    #[test]
    fn a_virtual_package_takes_the_provider_of_highest_priority() {
        let index = index(&[
            ("a", "1", "Depends: awk"),
            ("gawk", "1", "Provides: awk\nPriority: optional"),
            ("mawk", "1", "Provides: awk\nPriority: required"),
            ("b", "1", "Depends: awk (>= 2)"),
        ]);
        assert_eq!(solve(&index, &["a"], &[]).unwrap(), ["a", "mawk"]);
        assert_eq!(solve(&index, &["a", "gawk"], &[]).unwrap(), ["a", "gawk"]);
        assert!(solve(&index, &["b"], &[]).unwrap_err().contains("awk (>= 2)"));
    }

    #[test]
    fn excluded_packages_are_left_out_with_what_only_they_need() {
        let index = index(&[
            ("a", "1", "Depends: debconf | debconf-2.0, libc6"),
            ("debconf", "1", "Provides: debconf-2.0\nDepends: perl"),
            ("cdebconf", "1", "Provides: debconf-2.0"),
            ("perl", "1", ""),
            ("libc6", "1", ""),
        ]);
        assert_eq!(solve(&index, &["a"], &["debconf"]).unwrap(), ["a", "libc6"]);
    }

    #[test]
    fn a_missing_package_names_who_asked() {
        let index = index(&[("a", "1", "Depends: b"), ("b", "1", "Depends: ghost")]);
        assert!(solve(&index, &["nothing"], &[]).unwrap_err().contains("nothing does not exist"));
        let message = solve(&index, &["a"], &[]).unwrap_err();
        assert!(message.contains("ghost does not exist") && message.contains("b <- a <- the profile"), "{message}");
    }

    #[test]
    fn a_version_that_is_not_there_names_the_one_that_is() {
        let index = index(&[("a", "1", "Depends: b (>= 3)"), ("b", "2", "")]);
        let message = solve(&index, &["a"], &[]).unwrap_err();
        assert!(message.contains("b (>= 3)") && message.contains("b is there in version 2"), "{message}");
    }

    #[test]
    fn conflicts_are_reported_with_both_sides() {
        let index = index(&[("a", "1", "Conflicts: mta"), ("b", "1", "Provides: mta"), ("c", "1", "Breaks: a (<< 1)")]);
        assert_eq!(solve(&index, &["a", "c"], &[]).unwrap(), ["a", "c"]);
        let message = solve(&index, &["a", "b"], &[]).unwrap_err();
        assert!(message.contains("a conflicts with b (mta)"), "{message}");
        let own = self::index(&[("b", "1", "Provides: mta\nConflicts: mta")]);
        assert_eq!(solve(&own, &["b"], &[]).unwrap(), ["b"]);
    }

    #[test]
    fn the_highest_version_of_all_suites_wins() {
        let (old, new) = (package("a", "1.9-1", ""), package("a", "1.10-1", ""));
        for texts in [[("trixie", old.as_str()), ("trixie-security", new.as_str())], [("x", &new), ("y", &old)]] {
            let index = Index::of_texts(&texts).unwrap();
            assert_eq!(index.candidate("a").unwrap().version, "1.10-1");
            assert!(index.exactly("a", "1.9-1").is_some());
        }
    }

    proptest! {
        /// Whatever the graph: the answer is closed under its relations, and the order of the request is nothing.
        #[test]
        fn the_answer_is_closed_and_does_not_depend_on_order(
            edges in proptest::collection::vec((0usize..8, 0usize..8, 0usize..8), 0..16),
            wanted in proptest::collection::vec(0usize..8, 1..4),
        ) {
            let name = |number: usize| format!("p{number}x");
            let text: String = (0..8).map(|number| {
                let depends: Vec<String> = edges.iter().filter(|(from, ..)| *from == number)
                    .map(|(_, left, right)| format!("{} | {}", name(*left), name(*right))).collect();
                package(&name(number), "1", &format!("Depends: {}", depends.join(", ")))
            }).collect();
            let index = Index::of_texts(&[("s", &text)]).unwrap();
            let mut names: Vec<String> = wanted.iter().map(|number| name(*number)).collect();
            let chosen = resolve(&index, &names, &[]).unwrap();
            for (from, left, right) in &edges {
                if chosen.contains_key(&name(*from)) {
                    prop_assert!(chosen.contains_key(&name(*left)) || chosen.contains_key(&name(*right)));
                }
            }
            let keys: Vec<String> = chosen.keys().cloned().collect();
            names.reverse();
            let again: Vec<String> = resolve(&index, &names, &[]).unwrap().into_keys().collect();
            prop_assert_eq!(keys, again);
        }
    }
}
