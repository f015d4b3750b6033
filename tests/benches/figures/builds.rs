//! How long a build takes with everything in the cache.

use crate::{Row, extract_root, median};
use std::path::Path;
use std::time::{Duration, Instant};
use stories::{Failure, ImageDir, Lab, Result};

const WARM_MAXIMUM: f64 = 15.0;
const COLD_MAXIMUM: f64 = 45.0;

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    // Packages fetched, programs compiled.
    let image = lab.image("master+vm")?;
    let beside = archive_seconds(lab, &image)?;
    let against = |seconds: f64, maximum: f64| {
        format!("at most {maximum:.0} s; {:.1} of a plain tar of the root by zstd -3 ({beside:.1} s)", seconds / beside)
    };
    let folder = lab.folder().join("changed");
    let overlay = folder.join("overlay/etc");
    std::fs::create_dir_all(&overlay).map_err(Failure::file(&overlay, "make"))?;
    let changed = folder.join("changed.toml");
    std::fs::write(&changed, "overlays = [\"./overlay\"]\n").map_err(Failure::file(&changed, "write"))?;
    let lock = folder.join("master-vm-changed.lock");
    std::fs::copy(stories::workspace().join("profiles/master-vm.lock"), &lock).map_err(Failure::file(&lock, "copy"))?;
    let profiles = ["master".to_owned(), "vm".to_owned(), changed.display().to_string()];
    let mut warm = Vec::new();
    for round in 0..3 {
        let file = overlay.join("issue");
        std::fs::write(&file, format!("round {round}\n")).map_err(Failure::file(&file, "write"))?;
        warm.push(timed(&profiles, &folder.join("out"))?);
    }
    // The kernel forgets what it read; a failure to tell it so only makes the figure better.
    drop(std::fs::write("/proc/sys/vm/drop_caches", "3"));
    let cold = timed(&profiles[..2], &folder.join("empty"))?;
    let warm = median(warm.iter().map(Duration::as_secs_f64));
    Ok(vec![
        Row::new("build after a changed overlay file", format!("{warm:.1} s"), against(warm, WARM_MAXIMUM)),
        Row::new(
            "build of every artifact from fetched packages and compiled programs",
            format!("{:.1} s", cold.as_secs_f64()),
            against(cold.as_secs_f64(), COLD_MAXIMUM),
        ),
    ])
}

fn timed(profiles: &[String], out: &Path) -> Result<Duration> {
    let begin = Instant::now();
    stories::build(profiles, out)?;
    Ok(begin.elapsed())
}

/// What a plain archive of the same root takes: read all, compress by both cores, write.
fn archive_seconds(lab: &Lab, image: &ImageDir) -> Result<f64> {
    let folder = lab.folder().join("archive");
    extract_root(lab, image, &folder)?;
    let begin = Instant::now();
    let path = lab.folder().join("root.tar.zst");
    let archive = || -> std::io::Result<()> {
        let mut encoder = zstd::Encoder::new(std::fs::File::create(&path)?, 3)?;
        encoder.multithread(2)?;
        let mut builder = tar::Builder::new(encoder);
        builder.follow_symlinks(false);
        builder.append_dir_all(".", &folder)?;
        builder.into_inner()?.finish()?.sync_all()
    };
    archive().map_err(Failure::file(&path, "write"))?;
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&folder).map_err(Failure::file(&folder, "remove"))?;
    Ok(seconds)
}
