//! The definition's DNS: what would not stand in a Corefile, or not mean what it says.

use super::Checker;
use super::values::is_domain;
use spec::dns::{Forward, Rewrite, RewriteKind};
use std::net::{IpAddr, SocketAddr};

/// CoreDNS refuses more servers of one domain (plugin forward).
const SERVERS: usize = 15;
const DOMAIN: &str = "labels joined by dots are wanted, such as example.org";

impl Checker<'_> {
    pub(super) fn dns_server(&mut self) {
        let server = &self.cluster.dns_server;
        for (index, name) in server.exceptions.iter().enumerate().filter(|(_, name)| !is_domain(name)) {
            let path = format!("dns-server.exceptions[{index}]");
            self.report(&path, format!("the exception {name:?} is no domain"), DOMAIN);
        }
        let mut names = Vec::new();
        for (index, zone) in server.zones.iter().enumerate() {
            self.domain(&format!("dns-server.zone[{index}].name"), &zone.name, &mut names);
        }
        for (index, forward) in server.forwards.iter().enumerate() {
            let path = format!("dns-server.forward[{index}]");
            self.domain(&format!("{path}.name"), &forward.name, &mut names);
            self.servers(&format!("{path}.servers"), forward);
        }
        for (index, rewrite) in server.rewrites.iter().enumerate() {
            self.rewrite(&format!("dns-server.rewrite[{index}]"), rewrite);
        }
    }

    /// `names`: domains that are served already.
    fn domain(&mut self, path: &str, name: &str, names: &mut Vec<String>) {
        if !is_domain(name) {
            self.report(path, format!("{name:?} is no domain"), DOMAIN);
        } else if name == self.cluster.domain {
            self.report(path, format!("{name} is the domain of the Services"), "choose another, or change `domain`");
        } else if names.iter().any(|other| other == name) {
            self.report(path, format!("{name} is served twice"), "remove one of the zones or forwards");
        }
        names.push(name.to_owned());
    }

    fn servers(&mut self, path: &str, forward: &Forward) {
        if forward.servers.is_empty() || forward.servers.len() > SERVERS {
            let message = format!("{} has {} servers", forward.name, forward.servers.len());
            self.report(path, message, format!("1 to {SERVERS} are wanted"));
        }
        if forward.health_check == 0 {
            self.report(path, format!("{}: health-check is 0", forward.name), "seconds are wanted, at least 1");
        }
        for (index, server) in forward.servers.iter().enumerate() {
            // The machine itself too: consul's agent may run on each.
            let address = server.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| server.parse());
            if !address.is_ok_and(|address: IpAddr| !address.is_unspecified() && !address.is_multicast()) {
                self.report(
                    &format!("{path}[{index}]"),
                    format!("the server {server:?} of {} is no address", forward.name),
                    "ADDRESS or ADDRESS:PORT is wanted, such as 192.0.2.1:8600",
                );
            }
        }
    }

    fn rewrite(&mut self, path: &str, rewrite: &Rewrite) {
        let answer = rewrite.answer.iter().flat_map(|answer| [&answer.from, &answer.to]);
        // In a Corefile a space ends a word, and these have a meaning of their own there.
        let stands = |text: &String| {
            let sound = |character: char| character.is_ascii_graphic() && !"\"#`".contains(character);
            !["", "{", "}"].contains(&text.as_str()) && text.chars().all(sound)
        };
        for text in [&rewrite.from, &rewrite.to].into_iter().chain(answer).filter(|text| !stands(text)) {
            self.report(
                path,
                format!("{text:?} cannot stand in a rewrite"),
                "a name or expression without spaces, quotes and # is wanted",
            );
        }
        let expressions = [&rewrite.from].into_iter().chain(rewrite.answer.iter().map(|answer| &answer.from));
        let never = |text: &&String| text.ends_with('$') && !text.ends_with("\\.$");
        for text in expressions.filter(|_| rewrite.kind == RewriteKind::Regex).filter(never) {
            self.report(
                path,
                format!("{text:?} never fits"),
                "a name ends with a dot there: write \\.$, or leave $ out",
            );
        }
        match (rewrite.kind, &rewrite.answer) {
            (RewriteKind::Regex, None) => self.report(
                path,
                format!("the rewrite of {:?} lacks its way back", rewrite.from),
                "write answer = { from = \"...\", to = \"...\" }: clients refuse an answer to another question",
            ),
            (RewriteKind::Exact | RewriteKind::Prefix | RewriteKind::Suffix | RewriteKind::Substring, Some(_)) => self
                .report(
                    path,
                    format!("the rewrite of {:?} is turned round by itself", rewrite.from),
                    "remove `answer`, or write kind = \"regex\"",
                ),
            _ => {}
        }
    }
}
