//! Components without dependencies are really built here: that needs Go, and no network.

use super::*;
use crate::lock::Toolchain;

struct Project {
    folder: tempfile::TempDir,
    cache: Cache,
    go: String,
}

const MAIN: &str = "package main\n\nvar Version = \"none\"\n\nfunc main() { println(Version) }\n";
const COMPONENT: &str = "name = \"hello\"\nversion = \"v1\"\nlicense = \"MIT\"\n\n[[output]]\npackage = \".\"\n\
                         binary = \"hello\"\ninstall = \"/usr/bin/hello\"\nlinks = [\"/usr/bin/hi\", \"/opt/hi\"]\n\
                         [output.stamp]\n\"main.Version\" = \"one two\"\n\n\
                         [[output]]\npackage = \".\"\nbinary = \"extra\"\noptional = true\n";

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(&folder.path().join("cache"))).unwrap();
        let project = Project { folder, cache, go: Toolchain::of_machine().unwrap().go };
        project.write("go.mod", "module example/hello\n\ngo 1.24\n");
        project.write("main.go", MAIN);
        project.write("component.toml", COMPONENT);
        project
    }

    fn write(&self, name: &str, text: &str) {
        let folder = self.folder.path().join("components/hello");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    }

    fn with<T>(&self, action: impl FnOnce(&Builder) -> T) -> T {
        let progress = Progress::quiet();
        let components = self.folder.path().join("components");
        action(&Builder {
            cache: &self.cache,
            progress: &progress,
            components: &components,
            go: &self.go,
            modules: ModuleSource::CacheOnly,
        })
    }

    fn build(&self) -> Result<Vec<Built>, Error> {
        self.with(|builder| builder.build_chosen("hello", &ComponentChoice::default()))
    }
}

#[test]
fn a_program_is_built_stamped_placed_and_repeats_in_another_folder() {
    let (here, there) = (Project::new(), Project::new());
    let built = here.build().unwrap();
    assert_eq!(built.len(), 1, "optional outputs are left out");
    let printed = Command::new(&built[0].path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.stderr), "one two\n");
    let other = there.build().unwrap();
    assert_ne!(built[0].path, other[0].path);
    assert_eq!(std::fs::read(&built[0].path).unwrap(), std::fs::read(&other[0].path).unwrap());

    let mut tree = Tree::new();
    place(&mut tree, &built[0]).unwrap();
    assert_eq!(tree.get("/usr/bin/hello").unwrap().mode, 0o755);
    assert_eq!(tree.resolve("/usr/bin/hi").unwrap(), "/usr/bin/hello");
    assert_eq!(tree.resolve("/opt/hi").unwrap(), "/usr/bin/hello");
}

#[test]
fn only_what_goes_into_a_program_makes_it_new() {
    let project = Project::new();
    let key = || {
        project.with(|builder| {
            let loaded = builder.load("hello").unwrap();
            builder.key(&loaded, &loaded.component.output[0])
        })
    };
    let first = key();
    project.write("README.md", "words");
    project.write("component.toml", &format!("# words\n{COMPONENT}"));
    assert_eq!(key(), first);
    project.write("component.toml", &COMPONENT.replace("one two", "three"));
    let stamped = key();
    assert_ne!(stamped, first);
    project.write("main.go", &format!("{MAIN}\n// more\n"));
    assert_ne!(key(), stamped);
}

#[test]
fn a_compilers_complaint_is_shown_and_leaves_no_entry() {
    let project = Project::new();
    project.write("main.go", "package main\n\nfunc main() { missing() }\n");
    let error = project.build().unwrap_err().to_string();
    assert!(error.contains("component hello") && error.contains("undefined: missing"), "{error}");
    project.write("main.go", MAIN);
    project.build().unwrap();
}

#[test]
fn a_version_that_is_not_pinned_is_named() {
    let project = Project::new();
    project.write("component.toml", &COMPONENT.replace("license", "module = \"example.com/up\"\nlicense"));
    let missing = project.build().unwrap_err().to_string();
    for part in ["hello", "example.com/up v1", "go.sum", "go mod tidy"] {
        assert!(missing.contains(part), "{missing}");
    }
    project.write("go.sum", "example.com/up v1 h1:x=\n");
    project.write("go.mod", "module example/hello\n\ngo 1.24\n\nrequire (\n\texample.com/up v0.9 // indirect\n)\n");
    let other = project.build().unwrap_err().to_string();
    assert!(other.contains("v1, go.mod requires v0.9") && other.contains("go get example.com/up@v1"), "{other}");
}

#[test]
fn a_choice_that_does_not_exist_is_named() {
    let project = Project::new();
    let choice = ComponentChoice { with: vec!["ctr".into()], without: Vec::new() };
    let error = project.with(|builder| builder.build_chosen("hello", &choice)).unwrap_err().to_string();
    assert!(error.contains("`ctr`") && error.contains("hello, extra"), "{error}");
    let choice = ComponentChoice { with: vec!["extra".into()], without: vec!["hello".into()] };
    let built = project.with(|builder| builder.build_chosen("hello", &choice)).unwrap();
    assert_eq!(built[0].output.binary, "extra");
}

#[test]
fn two_builds_at_once_are_one() {
    let project = Project::new();
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..2).map(|_| scope.spawn(|| project.build().unwrap()[0].path.clone())).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert_eq!(paths[0], paths[1]);
}

#[test]
fn requirements_are_found_in_and_out_of_blocks() {
    let go_mod =
        "module m\nrequire a.b/c v1.0.0\nreplace (\n\td.e/f v1 => g v2\n)\nrequire (\n\td.e/f v3 // indirect\n)\n";
    assert_eq!(required_version(go_mod, "a.b/c"), Some("v1.0.0"));
    assert_eq!(required_version(go_mod, "d.e/f"), Some("v3"));
    assert_eq!(required_version(go_mod, "x"), None);
}
