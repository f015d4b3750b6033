//! `imgbuild serve` under a rack that is switched on: 200 machines fetch a root at the same moment. Clients are curl;
//! beside it they read the same file by themselves.

use crate::Row;
use std::process::{Child, Stdio};
use std::time::Instant;
use stories::{Failure, Lab, MASTER, Result, Site, StoryCluster};

const CLIENTS: usize = 200;
/// MB of 10^6 bytes.
const MEMORY: f64 = 64.0;
const MACHINE: &str = "[[machine]]\nname = \"m1\"\nrole = \"master\"\nstate-disk = \"virtio-disk0\"\n";

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let cluster = StoryCluster::new(lab, MACHINE)?;
    let image = lab.image(MASTER)?;
    let root = image.beside("root.img");
    let size = std::fs::metadata(&root).map_err(Failure::file(&root, "look at"))?.len();
    let folder = image.beside("");
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut site = Site::new(lab)?;
    site.serve(&cluster, &[MASTER])?;
    let url = format!("http://{}:8080/images/{name}/root.img", stories::SERVE_ADDRESS);
    let beside = fetch(lab, &site, &format!("file://{}", root.display()))?;
    let before = memory("VmRSS")?;
    forget_peak()?;
    let seconds = fetch(lab, &site, &url)?;
    let grown = memory("VmHWM")? - before;
    let rate = |seconds: f64| format!("{:.0} MB/s", (size * CLIENTS as u64) as f64 / 1e6 / seconds);
    Ok(vec![
        Row::new(
            &format!("serve: {CLIENTS} machines fetch a root of {:.0} MB each", size as f64 / 1e6),
            format!("{seconds:.1} s, {}", rate(seconds)),
            format!("{:.2} of the rate at which they read the file itself ({})", beside / seconds, rate(beside)),
        ),
        Row::new("the same: memory that it takes", format!("{grown:.1} MB"), format!("at most {MEMORY} MB")),
    ])
}

/// Seconds until all clients, on the network of the machines, have all of it.
fn fetch(lab: &Lab, site: &Site<'_>, url: &str) -> Result<f64> {
    let begun = Instant::now();
    let clients: Vec<Child> = site.on_its_network(|| {
        let start = |_| {
            let mut client = lab.program("curl");
            client.args(["--silent", "--fail", "--output", "/dev/null", url]);
            client.stdin(Stdio::null()).spawn().map_err(Failure::file("curl", "start"))
        };
        (0..CLIENTS).map(start).collect()
    })?;
    for mut client in clients {
        let ended = client.wait().map_err(Failure::file("curl", "wait for"))?;
        stories::expect(ended.success(), "a client that has all of it", ended)?;
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Of this process, in which `serve` runs: MB (proc(5), status).
fn memory(field: &str) -> Result<f64> {
    let path = "/proc/self/status";
    let text = std::fs::read_to_string(path).map_err(Failure::file(path, "read"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes * 1024.0 / 1e6)
        .ok_or_else(|| Failure::Unexpected(format!("{path} has no {field}")))
}

/// The peak counts from here on (proc(5), clear_refs).
fn forget_peak() -> Result {
    let path = "/proc/self/clear_refs";
    std::fs::write(path, "5").map_err(Failure::file(path, "write"))
}
