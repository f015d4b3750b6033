//! How fast a stick is written, beside dd on the same loop device.

use crate::{Row, median};
use spec::layout::{ALIGNMENT, image_size};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use stories::{Failure, Lab, LoopDevice, Result, run, workspace};

const ROUNDS: usize = 3;
/// Of dd's rate.
const LEAST: f64 = 0.95;
const BLOCK: usize = 4 << 20;

/// Seconds of one burning, as the command's own events say.
struct Burning {
    writing: f64,
    reading: f64,
}

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let image = lab.image("master+vm")?;
    let full = lab.folder().join("full.img");
    fill(&image.disk, &full).map_err(Failure::file(&full, "write"))?;
    let stick = lab.folder().join("stick");
    let file = File::create(&stick).and_then(|file| file.set_len(image_size() + ALIGNMENT));
    file.map_err(Failure::file(&stick, "make"))?;
    let device = LoopDevice::new(&stick)?;
    let (mut copies, mut burnings) = (Vec::new(), Vec::new());
    // The first of each makes the stick's blocks.
    for round in 0..=ROUNDS {
        let (copy, burning) = (dd(lab, &full, &device)?, burn(lab, &full, &device)?);
        if round > 0 {
            copies.push(copy);
            burnings.push(burning);
        }
    }
    let copy = median(copies.into_iter());
    let writing = median(burnings.iter().map(|burning| burning.writing));
    let reading = median(burnings.iter().map(|burning| burning.reading));
    let sparse = burn(lab, &image.disk, &device)?;
    let rate = |seconds: f64| format!("{:.0} MB/s", image_size() as f64 / 1e6 / seconds);
    Ok(vec![
        Row::new(
            "burn: an image without holes onto a loop device",
            format!("{writing:.1} s, {}", rate(writing)),
            format!("{:.2} of the rate of dd oflag=direct conv=fsync ({copy:.1} s); at least {LEAST}", copy / writing),
        ),
        Row::new("the same: reading it back and comparing", format!("{reading:.1} s"), rate(reading)),
        Row::new(
            "the same with the image as built, holes skipped",
            format!("{:.1} s", sparse.writing),
            format!("reading back {:.1} s", sparse.reading),
        ),
    ])
}

/// The image with something in every block between its two partition tables.
fn fill(image: &Path, full: &Path) -> std::io::Result<()> {
    std::fs::copy(image, full)?;
    let (file, mut random) = (File::options().write(true).open(full)?, File::open("/dev/urandom")?);
    let mut block = vec![0; BLOCK];
    random.read_exact(&mut block)?;
    let end = image_size() - ALIGNMENT;
    for (number, offset) in (ALIGNMENT..end).step_by(BLOCK).enumerate() {
        // No two blocks the same, without waiting for gigabytes of randomness.
        block[..8].copy_from_slice(&number.to_le_bytes());
        let length = BLOCK.min((end - offset) as usize);
        file.write_all_at(&block[..length], offset)?;
    }
    file.sync_all()
}

fn dd(lab: &Lab, image: &Path, device: &LoopDevice) -> Result<f64> {
    let mut command = Command::new("dd");
    command.arg(format!("if={}", image.display())).arg(format!("of={}", device.path()));
    command.args(["bs=4M", "oflag=direct", "conv=fsync,notrunc", "status=none"]);
    let begin = Instant::now();
    run(command, "", lab.host_patience().seconds(600))?.ok()?;
    Ok(begin.elapsed().as_secs_f64())
}

fn burn(lab: &Lab, image: &Path, device: &LoopDevice) -> Result<Burning> {
    // Compiled first where this clone's is not: the command says how long it took for itself.
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace()).args(["run", "--release", "--quiet", "--package", "imgbuild", "--"]);
    command.args(["--json", "burn"]).arg(image).args([
        "--to",
        device.path(),
        "--yes",
        "--yes-this-disk",
        device.name(),
    ]);
    let outcome = run(command, "", lab.host_patience().seconds(600))?;
    let (events, said) = (format!("{}{}", outcome.output, outcome.errors), outcome.errors.clone());
    outcome.ok()?;
    let seconds = |word: &str| {
        let events = events.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let of = |event: &serde_json::Value| {
            event["event"] == "done" && event.to_string().contains(&format!("{word} {}", device.path()))
        };
        let found = events.filter(of).find_map(|event| event["took_ms"].as_f64());
        found.map(|milliseconds| milliseconds / 1000.0).ok_or_else(|| Failure::Unexpected(format!("no {word}: {said}")))
    };
    Ok(Burning { writing: seconds("writing")?, reading: seconds("reading")? })
}
