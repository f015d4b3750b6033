//! How large the images are, and how near to what their parts must weigh.

use crate::{Row, extract_root};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use stories::{Failure, ImageDir, Lab, Result};

/// Figures to reach, bytes.
const VM_MAXIMUM: u64 = 165_000_000;
const RACK_MAXIMUM: u64 = 260_000_000;
const FLOOR_LEVEL: i32 = 19;

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (image, maximum) in [("master+vm", VM_MAXIMUM), ("master", RACK_MAXIMUM)] {
        let built = lab.image(image)?;
        let compressed = length(&built.beside("disk.img.zst"))?;
        let floor = floor(lab, &built)?;
        rows.push(Row::new(
            &format!("disk.img.zst of {image}"),
            format!("{:.1} MB", megabytes(compressed)),
            format!("at most {:.0} MB", megabytes(maximum)),
        ));
        rows.push(Row::new(
            &format!("the same against the floor of {image}"),
            format!("{:.2}", compressed as f64 / floor as f64),
            format!("{:.1} MB: its parts, each by zstd -19", megabytes(floor)),
        ));
    }
    Ok(rows)
}

/// Bytes of the parts that must be there, each compressed by itself: kernel, initramfs, and of the
/// root every program of more than a MiB alone, the rest by folder.
fn floor(lab: &Lab, image: &ImageDir) -> Result<u64> {
    let folder = lab.folder().join("floor");
    extract_root(lab, image, &folder)?;
    let mut parts: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for name in ["vmlinuz", "initramfs.img"] {
        parts.insert(name.into(), vec![image.beside(name)]);
    }
    collect(&folder, &folder, &mut parts)?;
    let parts: Vec<Vec<PathBuf>> = parts.into_values().collect();
    let half = parts.len() / 2;
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| parts[..half].iter().map(|files| compressed(files)).sum::<Result<u64>>());
        let other = parts[half..].iter().map(|files| compressed(files)).sum::<Result<u64>>();
        (one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    });
    std::fs::remove_dir_all(&folder).map_err(Failure::file(&folder, "remove"))?;
    Ok(one? + other?)
}

fn collect(root: &Path, folder: &Path, parts: &mut BTreeMap<String, Vec<PathBuf>>) -> Result {
    const ALONE: u64 = 1 << 20;
    for entry in std::fs::read_dir(folder).map_err(Failure::file(folder, "read"))? {
        let entry = entry.map_err(Failure::file(folder, "read"))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(Failure::file(folder, "read"))?);
        if kind.is_dir() {
            collect(root, &path, parts)?;
        } else if kind.is_file() {
            let inside = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let name = match length(&path)? > ALONE {
                true => inside,
                false => inside.split('/').take(3).collect::<Vec<_>>().join("/"),
            };
            parts.entry(name).or_default().push(path);
        }
    }
    Ok(())
}

fn compressed(files: &[PathBuf]) -> Result<u64> {
    let place = &files[0];
    let mut bytes = Vec::new();
    let mut sorted = files.to_vec();
    sorted.sort();
    for file in &sorted {
        bytes.extend(std::fs::read(file).map_err(Failure::file(file, "read"))?);
    }
    let small = zstd::bulk::compress(&bytes, FLOOR_LEVEL).map_err(Failure::file(place, "compress"))?;
    Ok(small.len().min(bytes.len()) as u64)
}

fn length(path: &Path) -> Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(Failure::file(path, "look at"))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
