//! `cargo bench -p stories`: sizes, build times, boot times and memory of the master, as the Markdown
//! table of docs/benchmarks.md. Takes most of an hour; nothing else should run beside it.
//!
//! `cargo bench -p stories -- sizes builds bundle burn serve boots boots-one downtime memory agent` picks chapters.

mod agent;
mod bare;
mod boots;
mod builds;
mod bundle;
mod burn;
mod downtime;
mod memory;
mod serve;
mod sizes;

use regex::Regex;
use std::path::Path;
use std::process::ExitCode;
use stories::{Failure, ImageDir, Lab, Result, scratch_lab};

/// A row of the table.
pub struct Row {
    pub figure: String,
    pub value: String,
    /// What it is compared with: the figure to reach, or what was run beside it.
    pub beside: String,
}

impl Row {
    pub fn new(figure: &str, value: impl Into<String>, beside: impl Into<String>) -> Row {
        Row { figure: figure.into(), value: value.into(), beside: beside.into() }
    }
}

type Chapter = fn(&Lab) -> Result<Vec<Row>>;

const CHAPTERS: [(&str, Chapter); 10] = [
    ("sizes", sizes::measure),
    ("builds", builds::measure),
    ("bundle", bundle::measure),
    ("burn", burn::measure),
    ("serve", serve::measure),
    ("boots", boots::measure_two),
    ("boots-one", boots::measure_one),
    ("downtime", downtime::measure),
    ("memory", memory::measure),
    ("agent", agent::measure),
];

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = figures.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// A number of the console.
fn found(console: &str, pattern: &str, group: usize) -> Result<f64> {
    let expression = Regex::new(pattern).map_err(|error| Failure::Unexpected(error.to_string()))?;
    let number = expression.captures(console).and_then(|captures| captures.get(group)?.as_str().parse().ok());
    number.ok_or_else(|| Failure::Unexpected(format!("the console lacks {pattern}")))
}

/// The files of an image's root.
fn extract_root(lab: &Lab, image: &ImageDir, folder: &Path) -> Result {
    let mut extract = lab.program("fsck.erofs");
    extract.arg(format!("--extract={}", folder.display())).arg(image.beside("root.img"));
    stories::run(extract, "", lab.host_patience().seconds(300))?.ok().map(drop)
}

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let outcome = scratch_lab("figures", |lab| {
        println!("| figure | measured | beside |\n|---|---|---|");
        for (name, measure) in CHAPTERS {
            if asked.is_empty() || asked.iter().any(|chapter| chapter == name) {
                for row in measure(lab)? {
                    println!("| {} | {} | {} |", row.figure, row.value, row.beside);
                }
            }
        }
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
