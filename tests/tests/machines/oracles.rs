//! Programs that we did not write judge what a build makes.

use images::oracle;
use images::verity::VerityInfo;
use serde_json::Value;
use stories::{Failure, MASTER, expect, story};

#[test]
fn foreign_programs_find_nothing_wrong_with_an_image() {
    story("oracles", |lab| {
        let image = lab.image(MASTER)?;
        let tools = lab.tools();
        let wrong = |error: images::tools::ToolsError| Failure::Unexpected(error.to_string());
        let beside = |name: &str| image.beside(name);

        oracle::partition_table(tools, &image.disk).map_err(wrong)?;
        oracle::esp(tools, &image.disk, &lab.folder().join("esp.img")).map_err(wrong)?;
        oracle::root_file_system(tools, &beside(imgbuild::pipeline::ROOT_FILE)).map_err(wrong)?;
        let sections = oracle::uki_sections(tools, &beside(imgbuild::pipeline::UKI_FILE)).map_err(wrong)?;
        for section in [".osrel", ".cmdline", ".uname", ".linux", ".initrd", ".sbat"] {
            expect(sections.contains(section), section, &sections)?;
        }
        let manifest = read_json(&image.manifest)?;
        let info = verity_of(&manifest).ok_or_else(|| Failure::Unexpected(format!("no root hash in {manifest}")))?;
        oracle::verity(tools, &beside(imgbuild::pipeline::ROOT_FILE), &info).map_err(wrong)?;
        let sbom = read_json(&beside(imgbuild::pipeline::SBOM_FILE))?;
        expect(sbom["spdxVersion"] == "SPDX-2.3", "SPDX-2.3", &sbom["spdxVersion"])
    });
}

pub fn read_json(path: &std::path::Path) -> stories::Result<Value> {
    let bytes = std::fs::read(path).map_err(Failure::file(path, "read"))?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::Unexpected(format!("{}: {error}", path.display())))
}

/// What the manifest says of the root, in the form that the oracle takes.
fn verity_of(manifest: &Value) -> Option<VerityInfo> {
    let digits = manifest["root-hash"].as_str()?;
    let mut root_hash = [0; 32];
    for (place, byte) in root_hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    let hash_offset = manifest["hash-offset"].as_u64()?;
    let block = u64::from(spec::layout::VERITY_BLOCK_SIZE);
    Some(VerityInfo { root_hash, hash_offset, data_blocks: hash_offset / block, total_size: 0 })
}
