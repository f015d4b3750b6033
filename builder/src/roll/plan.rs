//! Which machines go, in which order: masters one by one, the leader of etcd last of them, then nodes.

use crate::error::{Error, Result};
use crate::node::{Seen, Survey};
use bundle::Manifest;
use serde::Serialize;
use spec::cluster::Role;
use std::fmt::Write;

/// A machine that gets a new image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    pub machine: String,
    pub role: Role,
    pub from: String,
    pub to: String,
    /// Its place among the bundles.
    #[serde(skip)]
    pub bundle: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Those that run the new image already.
    pub done: Vec<String>,
    /// Those that no bundle is for.
    pub left: Vec<String>,
}

/// The plan for a cluster as it was seen. `only`: these machines alone, where there are some.
///
/// # Errors
/// A cluster that is not well, two bundles for one role, none for a machine that is named.
pub fn plan(survey: &Survey, bundles: &[&Manifest], only: &[String]) -> Result<Plan> {
    let mut roles: Vec<&str> = bundles.iter().map(|manifest| manifest.image.role.as_str()).collect();
    roles.sort_unstable();
    if let Some(pair) = roles.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::bad_input(format!("two bundles are for the role {}", pair[0])).help("give one of each role"));
    }
    if let Some(unknown) = only.iter().find(|name| !survey.machines.iter().any(|seen| seen.name == **name)) {
        return Err(Error::bad_input(format!("the cluster {} has no machine {unknown}", survey.cluster)));
    }
    if !survey.troubles.is_empty() {
        return Err(Error::failure(format!("cluster {} is not well: {}", survey.cluster, survey.troubles.join("; ")))
            .help("a roll takes one machine after the other away: it begins when nothing else is missing"));
    }
    let mut plan = Plan::default();
    let leads = |name: &str| {
        survey
            .etcd
            .iter()
            .any(|member| member.name == name && member.health.as_ref().is_some_and(|health| health.leader))
    };
    let mut machines: Vec<&Seen> = survey.machines.iter().collect();
    machines.sort_by_key(|seen| (seen.role != Role::Master, leads(&seen.name)));
    for seen in machines.into_iter().filter(|seen| only.is_empty() || only.contains(&seen.name)) {
        let running = seen.status.as_ref().map(|status| status.image.clone()).unwrap_or_default();
        match bundles.iter().position(|manifest| manifest.image.role == seen.role.name()) {
            Some(place) if bundles[place].image.version == running => plan.done.push(seen.name.clone()),
            Some(place) => plan.steps.push(Step {
                machine: seen.name.clone(),
                role: seen.role,
                from: running,
                to: bundles[place].image.version.clone(),
                bundle: place,
            }),
            None => plan.left.push(seen.name.clone()),
        }
    }
    Ok(plan)
}

impl Plan {
    /// Steps that are taken at the same time: each master alone, nodes so many at once.
    pub fn groups(&self, nodes_at_once: usize) -> Vec<&[Step]> {
        let masters = self.steps.iter().take_while(|step| step.role == Role::Master).count();
        let (masters, nodes) = self.steps.split_at(masters);
        masters.chunks(1).chain(nodes.chunks(nodes_at_once.max(1))).collect()
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (number, step) in self.steps.iter().enumerate() {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{:>3}. {} ({}): {} -> {}",
                number + 1,
                step.machine,
                step.role.name(),
                step.from,
                step.to
            );
        }
        for (names, what) in [(&self.done, "run it already"), (&self.left, "no bundle is for them")] {
            if !names.is_empty() {
                let _ = writeln!(text, "     {}: {what}", names.join(", "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::agent::{AgentStatus, EtcdHealth, EtcdMember, VERSION};
    use spec::image::Image;
    use spec::layout::STATE_FORMAT;
    use spec::status::{ETCD_HEALTHY, NodeStatus};

    fn seen(name: &str, role: Role, image: &str) -> Seen {
        let etcd = (role == Role::Master).then(|| ETCD_HEALTHY.to_owned());
        let status = AgentStatus {
            version: VERSION,
            image: image.into(),
            cluster_id: None,
            node: NodeStatus { ready: true, phase: "Ready".into(), etcd, ..NodeStatus::default() },
            init: Default::default(),
            certificates: Default::default(),
            slots: Vec::new(),
        };
        Seen { name: name.into(), role, address: None, status: Some(status), trouble: None }
    }

    fn cluster(machines: Vec<Seen>, leader: &str) -> Survey {
        let health = |leader| EtcdHealth { leader, has_leader: true, database_size: 1, errors: Vec::new() };
        let member = |name: &str| EtcdMember {
            id: name.into(),
            name: name.into(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            learner: false,
            health: Some(health(name == leader)),
        };
        let masters = machines.iter().filter(|seen| seen.role == Role::Master);
        let etcd = masters.map(|seen| member(&seen.name)).collect();
        Survey { cluster: "lab".into(), at: 0, machines, etcd, troubles: Vec::new() }
    }

    fn manifest(role: &str, version: &str) -> Manifest {
        Manifest {
            format: Manifest::FORMAT,
            image: Image {
                profile: role.into(),
                role: role.into(),
                version: version.into(),
                epoch: 0,
                kubernetes_version: "v1".into(),
                etcd_version: None,
                kernel_release: "6".into(),
                timezone: "UTC".into(),
                pause_image: "pause".into(),
                mtu: None,
                slice_us: None,
                timer_slack_us: None,
            },
            state_format: STATE_FORMAT,
            kernel: bundle::Range { offset: 0, length: 0 },
            initramfs: bundle::Range { offset: 0, length: 0 },
            command_line: String::new(),
            files: Default::default(),
        }
    }

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.machine.as_str()).collect()
    }

    #[test]
    fn masters_go_one_by_one_with_the_leader_last_and_nodes_in_groups() {
        let mut machines: Vec<Seen> = (1..=4).map(|number| seen(&format!("n{number}"), Role::Node, "1")).collect();
        machines.extend((1..=3).map(|number| seen(&format!("m{number}"), Role::Master, "1")));
        machines.push(seen("n5", Role::Node, "2"));
        let survey = cluster(machines, "m1");
        let (master, node) = (manifest("master", "2"), manifest("node", "2"));
        let plan = plan(&survey, &[&master, &node], &[]).unwrap();
        assert_eq!(names(&plan.steps), ["m2", "m3", "m1", "n1", "n2", "n3", "n4"]);
        assert_eq!(plan.done, ["n5"]);
        let groups: Vec<Vec<&str>> = plan.groups(3).into_iter().map(names).collect();
        assert_eq!(groups, [vec!["m2"], vec!["m3"], vec!["m1"], vec!["n1", "n2", "n3"], vec!["n4"]]);
        assert!(plan.text().starts_with("  1. m2 (master): 1 -> 2\n"), "{}", plan.text());

        let some = super::plan(&survey, &[&node], &["n2".to_owned(), "m1".to_owned()]).unwrap();
        assert_eq!((names(&some.steps), some.left), (vec!["n2"], vec!["m1".to_owned()]));
    }

    #[test]
    fn what_cannot_be_rolled_is_refused() {
        let mut survey = cluster(vec![seen("m1", Role::Master, "1")], "m1");
        let bundle = manifest("master", "2");
        let reason = |survey: &Survey, bundles: &[&Manifest], only: &[String]| {
            let error = plan(survey, bundles, only).unwrap_err();
            (error.status(), error.to_string())
        };
        let (status, text) = reason(&survey, &[&bundle, &bundle], &[]);
        assert!(status == 2 && text.contains("two bundles are for the role master"), "{text}");
        let (status, text) = reason(&survey, &[&bundle], &["m9".to_owned()]);
        assert!(status == 2 && text.contains("no machine m9"), "{text}");
        survey.troubles.push("m2 does not answer".into());
        let (status, text) = reason(&survey, &[&bundle], &[]);
        assert!(status == 1 && text.contains("m2 does not answer"), "{text}");
    }
}
