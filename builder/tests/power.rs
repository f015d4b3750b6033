//! `imgbuild power` against a stand-in for a BMC. By hand against sushy-tools' emulator: docs/verification.md.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::agents::Agent;
use support::{Project, says};

/// A system that follows after a few looks, as hardware does.
struct Board {
    power: &'static str,
    next: Option<(&'static str, u32)>,
    medium: Value,
}

impl Board {
    fn off() -> Board {
        Board { power: "Off", next: None, medium: Value::Null }
    }

    fn answer(&mut self, request: &str, body: &str) -> (u16, String) {
        let document = match request {
            "GET /redfish/v1/Systems" => json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]}),
            "GET /redfish/v1/Systems/1" => self.system(),
            "POST /reset" => return self.reset(&serde_json::from_str::<Value>(body).unwrap()["ResetType"]),
            "PATCH /redfish/v1/Systems/1" => return (204, String::new()),
            "GET /manager" => json!({"VirtualMedia": {"@odata.id": "/media"}}),
            "GET /media" => json!({"Members": [{"@odata.id": "/media/floppy"}, {"@odata.id": "/media/cd"}]}),
            "GET /media/floppy" => json!({"MediaTypes": ["Floppy"]}),
            "GET /media/cd" => json!({
                "MediaTypes": ["CD", "DVD"], "Inserted": !self.medium.is_null(),
                "Actions": {
                    "#VirtualMedia.InsertMedia": {"target": "/media/cd/insert"},
                    "#VirtualMedia.EjectMedia": {"target": "/media/cd/eject"},
                },
            }),
            "POST /media/cd/insert" => {
                self.medium = serde_json::from_str::<Value>(body).unwrap()["Image"].clone();
                return (204, String::new());
            }
            "POST /media/cd/eject" => {
                self.medium = Value::Null;
                return (204, String::new());
            }
            _ => return (404, json!({"error": {"message": format!("there is no {request}")}}).to_string()),
        };
        (200, document.to_string())
    }

    fn system(&mut self) -> Value {
        match self.next.take() {
            Some((power, 0)) => self.power = power,
            Some((power, looks)) => self.next = Some((power, looks - 1)),
            None => {}
        }
        json!({
            "@odata.etag": "W/\"7\"", "PowerState": self.power, "Links": {"ManagedBy": [{"@odata.id": "/manager"}]},
            "Actions": {"#ComputerSystem.Reset": {
                "target": "/reset",
                "ResetType@Redfish.AllowableValues": ["On", "GracefulShutdown", "ForceOff", "ForceRestart"],
            }},
        })
    }

    fn reset(&mut self, kind: &Value) -> (u16, String) {
        match (kind.as_str().unwrap(), self.power) {
            ("On", "Off") | ("ForceRestart", "On") => self.next = Some(("On", 1)),
            ("GracefulShutdown" | "ForceOff", "On") => self.next = Some(("Off", 1)),
            (kind, power) => {
                let message = format!("{kind} while it is {power}");
                return (409, json!({"error": {"@Message.ExtendedInfo": [{"Message": message}]}}).to_string());
            }
        }
        (204, String::new())
    }
}

/// A cluster whose node has this BMC.
fn project(bmc: &str) -> Project {
    let project = Project::with_a_cluster();
    project.edit("clusters/lab/cluster.toml", "name = \"n1\"\n", &format!("name = \"n1\"\nbmc = {{ {bmc} }}\n"));
    project.write("clusters/lab/bmc.toml", "[default]\nuser = \"root\"\npassword = \"calvin\"\n");
    mode(&project, 0o600);
    project
}

fn mode(project: &Project, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let path = project.path("clusters/lab/bmc.toml");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_machine_is_switched_and_started_from_elsewhere_once() {
    let mut board = Board::off();
    let (bmc, sha256) = Agent::bmc(move |request, body| board.answer(request, body));
    let project = project(&format!("url = \"https://{}\", certificate = {sha256:?}", bmc.address));
    let power = |arguments: &[&str]| project.done(&[&["power", "n1", "--cluster", "lab"], arguments].concat());
    assert_eq!(power(&[]), "n1: Off\n");
    assert_eq!(power(&["--turn", "on", "--boot-network"]), "n1: On\n");
    assert_eq!(power(&["--turn", "on"]), "n1: On\n");
    assert_eq!(power(&["--turn", "cycle", "--boot-media", "http://192.0.2.1/disk.iso"]), "n1: On\n");
    assert_eq!(power(&["--boot-media", "http://192.0.2.1/other.iso"]), "n1: On\n");
    assert_eq!(power(&["--turn", "off", "--json"]), "{\n  \"n1\": \"Off\"\n}\n");
    let asked: Vec<String> = bmc
        .asked()
        .into_iter()
        .filter(|asked| !asked.request.starts_with("GET"))
        .map(|asked| format!("{} {}", asked.request, asked.body))
        .collect();
    let boot = |target: &str| {
        format!(
            "PATCH /redfish/v1/Systems/1 {}",
            json!({"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target}})
        )
    };
    let insert = |name: &str| {
        let image = format!("http://192.0.2.1/{name}.iso");
        format!("POST /media/cd/insert {}", json!({"Image": image, "Inserted": true, "WriteProtected": true}))
    };
    assert_eq!(
        asked,
        [
            boot("Pxe"),
            "POST /reset {\"ResetType\":\"On\"}".into(),
            insert("disk"),
            boot("Cd"),
            "POST /reset {\"ResetType\":\"ForceRestart\"}".into(),
            "POST /media/cd/eject {}".into(),
            insert("other"),
            boot("Cd"),
            "POST /reset {\"ResetType\":\"GracefulShutdown\"}".into(),
        ]
    );
}

#[test]
fn a_bmc_that_is_not_known_gets_no_password() {
    let mut board = Board::off();
    let (bmc, sha256) = Agent::bmc(move |request, body| board.answer(request, body));
    let project = project(&format!("url = \"https://{}\"", bmc.address));
    let (_, errors) = project.failed(&["power", "n1", "--cluster", "lab"]);
    // Long lines are broken at blanks alone.
    says(&errors, &[&sha256, "`certificate`"]);
    assert!(bmc.asked().is_empty());
}

#[test]
fn what_is_missing_is_said_before_anything_is_asked() {
    let project = project("url = \"https://127.0.0.1:1\"");
    says(&project.refused(&["power", "m1", "--cluster", "lab"]), &["m1 has no bmc"]);
    says(&project.refused(&["power", "n9", "--cluster", "lab"]), &["no machine \"n9\""]);
    mode(&project, 0o644);
    says(&project.refused(&["power", "n1", "--cluster", "lab"]), &["0644"]);
    project.write("clusters/lab/bmc.toml", "[m1]\nuser = \"a\"\npassword = \"secret\"\n");
    mode(&project, 0o600);
    says(&project.refused(&["power", "n1", "--cluster", "lab"]), &["neither n1 nor default"]);
    project.edit("clusters/lab/cluster.toml", "https://127.0.0.1:1", "127.0.0.1/x");
    says(&project.refused(&["cluster", "check", "lab"]), &["is no URL of a BMC"]);
}
