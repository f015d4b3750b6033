//! What travels of a bundle to a machine that runs the image before it: the chunks that it lacks.

use crate::Row;
use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use stories::{Failure, Lab, MASTER, NEXT_MASTER, Result};

/// Another configuration, and one Debian package more.
const PACKAGED_MASTER: &str = "master+vm+next/packaged";
/// Percent of a bundle.
const MAXIMUM: f64 = 15.0;

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let there: HashSet<bundle::Chunk> = chunks(lab, MASTER)?.into_iter().collect();
    let row = |figure: &str, image: &str| -> Result<Row> {
        let all = chunks(lab, image)?;
        let size: u64 = all.iter().map(|chunk| u64::from(chunk.size)).sum();
        let mut lacking: HashSet<bundle::Chunk> = all.into_iter().collect();
        lacking.retain(|chunk| !there.contains(chunk));
        let travels: u64 = lacking.iter().map(|chunk| u64::from(chunk.size)).sum();
        let (travels, size) = (travels as f64 / 1e6, size as f64 / 1e6);
        Ok(Row::new(
            figure,
            format!("{travels:.1} of {size:.1} MB, {:.1} %", 100.0 * travels / size),
            format!("at most {MAXIMUM} %"),
        ))
    };
    Ok(vec![
        row("a bundle after a change of configuration (a manifest more): what travels", NEXT_MASTER)?,
        row("the same with a Debian package more (tcpdump and what it needs)", PACKAGED_MASTER)?,
    ])
}

fn chunks(lab: &Lab, image: &str) -> Result<Vec<bundle::Chunk>> {
    let image = lab.image(image)?;
    let mut chunks = Vec::new();
    for name in bundle::PAYLOAD {
        let path = image.beside(name);
        let file = File::open(&path).map_err(Failure::file(&path, "open"))?;
        let payload = bundle::chunks_of(name, BufReader::new(file));
        chunks.extend(payload.map_err(|error| Failure::Unexpected(error.to_string()))?.chunks);
    }
    Ok(chunks)
}
