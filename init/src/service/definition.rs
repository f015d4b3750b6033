//! Reading service definitions. A broken one is refused by name and the others go on.

use spec::cluster::{NetworkChoice, Role};
use spec::service::{Ready, Service};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// A definition that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub name: String,
    pub reason: String,
}

pub type Definitions = BTreeMap<String, Service>;

/// Reads every `NAME.toml` of a folder, leaving out what is of another role or network.
pub fn read(folder: &Path, role: Role, network: NetworkChoice) -> (Definitions, Vec<Refusal>) {
    let mut texts = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "toml")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
        {
            texts.insert(name.to_owned(), std::fs::read_to_string(&path).map_err(|error| error.to_string()));
        }
    }
    judge(texts, role, network)
}

fn judge(
    texts: BTreeMap<String, Result<String, String>>,
    role: Role,
    network: NetworkChoice,
) -> (Definitions, Vec<Refusal>) {
    let mut definitions = Definitions::new();
    let mut refusals = Vec::new();
    for (name, text) in texts {
        match text.and_then(|text| parse(&name, &text)) {
            Ok(service) if service.runs_on(role.name(), network) => {
                definitions.insert(name, service);
            }
            Ok(_) => {}
            Err(reason) => refusals.push(Refusal { name, reason }),
        }
    }
    refuse_impossible(&mut definitions, &mut refusals);
    (definitions, refusals)
}

fn parse(name: &str, text: &str) -> Result<Service, String> {
    let service: Service = toml::from_str(text).map_err(|error| error.to_string().trim().replace('\n', " "))?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err("the name may have letters, digits, `-` and `_`".to_owned());
    }
    match service.exec.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => return Err(format!("exec: `{program}` is not an absolute path")),
        None => return Err("exec is empty".to_owned()),
    }
    if let Some(program) = service.before_stop.first().filter(|program| !program.starts_with('/')) {
        return Err(format!("before-stop: `{program}` is not an absolute path"));
    }
    if let Some(path) = service.wants_files.iter().find(|path| !path.starts_with('/')) {
        return Err(format!("wants-files: `{path}` is not an absolute path"));
    }
    if let Some(role) = service.roles.iter().find(|role| !["master", "node"].contains(&role.as_str())) {
        return Err(format!("roles: `{role}` is neither `master` nor `node`"));
    }
    if let Some(directory) =
        service.directories.iter().find(|directory| u32::from_str_radix(&directory.mode, 8).is_err())
    {
        return Err(format!("directories: mode `{}` of {} is not octal", directory.mode, directory.path));
    }
    for capability in service.capabilities.iter().flatten() {
        super::spawn::capability(capability)?;
    }
    check_ready(&service.ready)?;
    Ok(service)
}

fn check_ready(ready: &Ready) -> Result<(), String> {
    match ready {
        Ready::Tcp(address) => {
            address.parse::<SocketAddr>().map(drop).map_err(|_| format!("ready.tcp: `{address}` is not ADDRESS:PORT"))
        }
        Ready::Http(url) => {
            split_url(url).map(drop).ok_or_else(|| format!("ready.http: `{url}` is not http://ADDRESS:PORT/PATH"))
        }
        Ready::File(path) if !path.starts_with('/') => Err(format!("ready.file: `{path}` is not an absolute path")),
        _ => Ok(()),
    }
}

/// `http://ADDRESS:PORT/PATH` as address and path.
pub fn split_url(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some((authority.parse().ok()?, if path.is_empty() { "/".to_owned() } else { path.to_owned() }))
}

/// Takes out what can never start: an `after` that nothing fulfils, and circles. What stands after a
/// refused service is refused too.
fn refuse_impossible(definitions: &mut Definitions, refusals: &mut Vec<Refusal>) {
    loop {
        let missing = definitions.iter().find_map(|(name, service)| {
            let lacking = service.after.iter().find(|after| !definitions.contains_key(*after))?;
            Some(Refusal {
                name: name.clone(),
                reason: format!("after: there is no service `{lacking}` on this machine"),
            })
        });
        let Some(refusal) = missing.or_else(|| circle(definitions)) else { return };
        definitions.remove(&refusal.name);
        refusals.push(refusal);
    }
}

fn circle(definitions: &Definitions) -> Option<Refusal> {
    let ordered = start_order(definitions);
    let stuck: Vec<&str> = definitions.keys().filter(|name| !ordered.contains(name)).map(String::as_str).collect();
    let name = stuck.first()?;
    Some(Refusal {
        name: (*name).to_owned(),
        reason: format!("after: {} wait for each other in a circle", stuck.join(", ")),
    })
}

/// Names such that each comes behind all that it stands after; what is in a circle is left out.
pub fn start_order(definitions: &Definitions) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    loop {
        let ready = |(name, service): &(&String, &Service)| {
            !order.contains(name) && service.after.iter().all(|after| order.contains(after))
        };
        let next: Vec<String> = definitions.iter().filter(ready).map(|(name, _)| name.clone()).collect();
        if next.is_empty() {
            return order;
        }
        order.extend(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(files: &[(&str, &str)]) -> (Vec<String>, BTreeMap<String, String>) {
        let texts = files.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned()))).collect();
        let (definitions, refusals) = judge(texts, Role::Master, NetworkChoice::KubeProxy);
        (start_order(&definitions), refusals.into_iter().map(|refusal| (refusal.name, refusal.reason)).collect())
    }

    fn after(names: &str) -> String {
        format!("description = \"x\"\nexec = [\"/bin/x\"]\nafter = [{names}]\n")
    }

    #[test]
    fn order_follows_after() {
        let (order, refused) = judged(&[
            ("kubelet", &after("\"containerd\", \"agent\"")),
            ("containerd", &after("")),
            ("agent", &after("\"containerd\"")),
        ]);
        assert_eq!(order, ["containerd", "agent", "kubelet"]);
        assert!(refused.is_empty());
    }

    #[test]
    fn a_broken_one_is_refused_by_name_and_the_others_go_on() {
        let (order, refused) = judged(&[
            ("good", &after("")),
            ("typo", "description = \"x\"\nexec = [\"/bin/x\"]\nafterr = []\n"),
            ("relative", "description = \"x\"\nexec = [\"x\"]\n"),
            ("orphan", &after("\"typo\"")),
            ("a", &after("\"b\"")),
            ("b", &after("\"a\"")),
            ("other-role", "description = \"x\"\nexec = [\"/bin/x\"]\nroles = [\"node\"]\n"),
            ("other-network", "description = \"x\"\nexec = [\"/bin/x\"]\nnetworks = [\"kube-router\"]\n"),
            ("port", "description = \"x\"\nexec = [\"/bin/x\"]\nready = { tcp = \"localhost:1\" }\n"),
            ("power", "description = \"x\"\nexec = [\"/bin/x\"]\ncapabilities = [\"CAP_EVERYTHING\"]\n"),
        ]);
        assert_eq!(order, ["good"]);
        let names: Vec<&str> = refused.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b", "orphan", "port", "power", "relative", "typo"]);
        assert!(refused["typo"].contains("afterr"), "{}", refused["typo"]);
        assert!(refused["a"].contains("a, b wait for each other"), "{}", refused["a"]);
        assert!(refused["power"].contains("CAP_EVERYTHING"));
    }

    /// What the project ships must be what init accepts.
    #[test]
    fn the_overlays_of_this_project_are_accepted() {
        fn collect(folder: &Path, texts: &mut BTreeMap<String, Result<String, String>>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    collect(&path, texts);
                } else if path.parent().is_some_and(|folder| folder.ends_with("imgbuild/services")) {
                    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                    texts.insert(name, Ok(std::fs::read_to_string(path).unwrap()));
                }
            }
        }
        let mut texts = BTreeMap::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlays"), &mut texts);
        assert!(!texts.is_empty());
        let (_, refusals) = judge(texts, Role::Master, NetworkChoice::KubeProxy);
        assert!(refusals.is_empty(), "{refusals:?}");
    }

    #[test]
    fn urls_of_ready_checks() {
        assert_eq!(
            split_url("http://127.0.0.1:2381/health"),
            Some(("127.0.0.1:2381".parse().unwrap(), "/health".into()))
        );
        assert_eq!(split_url("http://127.0.0.1:80"), Some(("127.0.0.1:80".parse().unwrap(), "/".into())));
        assert_eq!(split_url("https://127.0.0.1:80/"), None);
    }
}
