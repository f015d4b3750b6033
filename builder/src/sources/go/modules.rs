//! The modules that a Go program was linked from, as the program itself says (its build information).

use super::Error;
use std::path::Path;
use std::process::Command;

/// A module of a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    pub path: String,
    /// `v1.2.3`; empty for our own main module.
    pub version: String,
    /// `h1:...` as in go.sum; empty where there is none.
    pub sum: String,
}

/// Modules of `program`, sorted, without our own main module. A replaced module appears as what replaced it.
///
/// # Errors
/// Go does not run, or the file is no Go program.
pub fn modules_of(program: &Path) -> Result<Vec<Module>, Error> {
    let output = Command::new("go").args(["version", "-m"]).arg(program).output().map_err(Error::NoCompiler)?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::NoBuildInfo { program: program.display().to_string(), printed });
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(text: &str) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.trim().split('\t').collect();
        let (kind, path, version) = match words[..] {
            [kind, path, version, ..] => (kind, path, version),
            _ => continue,
        };
        let sum = words.get(3).copied().unwrap_or_default();
        let module = Module { path: path.to_owned(), version: version.to_owned(), sum: sum.to_owned() };
        match kind {
            "dep" => modules.push(module),
            // Stands behind the module that it replaces.
            "=>" => {
                modules.pop();
                modules.push(module);
            }
            _ => {}
        }
    }
    modules.sort();
    modules.dedup();
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_take_the_place_of_what_they_replace() {
        let text = "out/kubelet: go1.26.8\n\tpath\timgbuild/kubernetes\n\tmod\timgbuild/kubernetes\t(devel)\t\n\
                    \tdep\tk8s.io/api\tv0.0.0\n\t=>\tk8s.io/api\tv0.37.2\th1:abc=\n\
                    \tdep\tgithub.com/x/y\tv1.0.0\th1:def=\n\tbuild\t-trimpath=true\n";
        let found = parse(text);
        let shown: Vec<String> = found.iter().map(|m| format!("{} {} {}", m.path, m.version, m.sum)).collect();
        assert_eq!(shown, ["github.com/x/y v1.0.0 h1:def=", "k8s.io/api v0.37.2 h1:abc="]);
    }
}
