//! Writes a machine's seed into an image that is built already: one build serves many sticks.

use super::seed::find_machine;
use super::{Definition, seed_files, seed_files_with_keys};
use crate::error::{Error, Problem, Result};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use spec::cluster::{Cluster, Role};
use spec::layout::{Partition, SECTOR_SIZE};
use std::fs::File;
use std::path::Path;
use time::OffsetDateTime;

/// A machine's seed for an image of its role.
#[derive(Debug, Clone)]
pub struct SeedOf {
    pub definition: Definition,
    pub machine: String,
    /// A master's carries the authorities' keys in any case.
    pub with_keys: bool,
}

impl SeedOf {
    fn role(&self) -> Result<Role> {
        Ok(find_machine(&self.definition, &self.machine)?.role)
    }

    /// # Errors
    /// Bad input when the definition has no such machine; a failure when the secrets cannot be read.
    pub fn files(&self, now: OffsetDateTime) -> Result<seed::Files> {
        match self.with_keys {
            true => seed_files_with_keys(&self.definition, &self.machine, now),
            false => seed_files(&self.definition, Some(&self.machine), self.role()?, now),
        }
    }

    /// # Errors
    /// Bad input when `image` is no image of ours, or one of another role.
    pub fn require_image(&self, image: &Path) -> Result<()> {
        let mut file = File::open(image).map_err(|error| Error::io("read", image, error))?;
        require_seed_partition(&file, image)?;
        self.require_role(&seed::read(&mut file, Partition::Seed.offset()), image)
    }

    /// Puts it in the place of the seed on a disk. Nothing of the one before stays: that was another machine's secret.
    ///
    /// # Errors
    /// Bad input when the seed before was for a machine of another role; a failure when the disk cannot be written.
    pub fn put(&self, disk: &mut File, files: &seed::Files, shown: &Path) -> Result<()> {
        let start = Partition::Seed.offset();
        self.require_role(&seed::read(disk, start), shown)?;
        let failed =
            |error: seed::Error| Error::because(format!("cannot write the seed of {}", shown.display()), error);
        seed::erase(disk, start).map_err(failed)?;
        seed::write(disk, start, files).map_err(failed).map(drop)
    }

    fn require_role(&self, before: &std::result::Result<seed::Seed, seed::Error>, image: &Path) -> Result<()> {
        let (role, machine) = (self.role()?, &self.machine);
        let Some(found) = role_of(before).filter(|found| *found != role) else { return Ok(()) };
        let message =
            format!("{} is the image of a {}, and {machine} is a {}", image.display(), found.name(), role.name());
        let help = format!("build one: imgbuild --profile {} --machine {machine}", role.name());
        Err(Error::bad_input(message).help(help))
    }
}

/// Makes the image file or stick `image` that of the seed's machine. Cut off in between, the image has no seed, and
/// the command can be given again.
///
/// # Errors
/// Bad input when the definition has no such machine, the file is none of our images, or its last seed
/// was for a machine of another role; a failure when the secrets or the file cannot be read or written.
pub fn write_seed(of: &SeedOf, image: &Path, now: OffsetDateTime) -> Result<()> {
    let files = of.files(now)?;
    let mut file = open(image)?;
    require_seed_partition(&file, image)?;
    of.put(&mut file, &files, image)
}

fn open(image: &Path) -> Result<File> {
    match File::options().read(true).write(true).open(image) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::bad_input(format!("{}: no such image", image.display()))
                .help("build one: imgbuild --profile node --machine NAME"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            Err(Error::bad_input(format!("{} is a folder", image.display())).help("its disk.img is wanted"))
        }
        Err(error) => Err(Error::io("write", image, error)),
    }
}

/// The partition table must have our seed partition at its place, whatever the GUIDs: burning draws new ones.
fn require_seed_partition(file: &File, image: &Path) -> Result<()> {
    let refused = |reason: String| {
        let problem = Problem::new(format!("{} is no disk image of ours: {reason}", image.display()));
        Error::from(problem.help("the disk.img of a build is wanted, not its compressed form, or a stick with it"))
    };
    let config = GptConfig::new().writable(false).logical_block_size(LogicalBlockSize::Lb512);
    let table = config.open_from_device(file).map_err(|error| refused(format!("its partition table: {error}")))?;
    let wanted = Partition::Seed;
    let entry = table.partitions().get(&wanted.number()).filter(|entry| entry.is_used());
    let entry = entry.ok_or_else(|| refused(format!("it has no partition {}", wanted.number())))?;
    let found =
        (entry.part_type_guid.guid, entry.first_lba * SECTOR_SIZE, entry.bytes_len(LogicalBlockSize::Lb512).ok());
    if found != (wanted.type_guid(), wanted.offset(), wanted.size()) {
        return Err(refused(format!("its partition {} is not the seed's", wanted.number())));
    }
    Ok(())
}

/// What the image is for, as far as its last seed tells: one without a name is a master's that may form the
/// cluster, or any node's.
fn role_of(seed: &std::result::Result<seed::Seed, seed::Error>) -> Option<Role> {
    let files = &seed.as_ref().ok()?.files;
    let text = |name: &str| std::str::from_utf8(files.get(name)?).ok();
    let about: spec::seed::Machine = toml::from_str(text(spec::seed::files::MACHINE)?).ok()?;
    let Some(name) = about.name else {
        let joins = files.contains_key(spec::seed::files::JOIN_KEY);
        return Some(if joins { Role::Node } else { Role::Master });
    };
    let cluster: Cluster = toml::from_str(text(spec::seed::files::CLUSTER)?).ok()?;
    cluster.machine(&name).map(|machine| machine.role)
}

#[cfg(test)]
mod tests {
    use super::super::{DEFINITION_FILE, NewCluster, create};
    use super::*;
    use crate::project::Project;
    use images::gpt::{IMAGE_PARTITIONS, Identity};
    use spec::seed::files;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 00:00 UTC);

    /// A master and two nodes.
    fn definition(work: &Path) -> Definition {
        let project = Project { root: work.to_owned(), work: work.to_owned(), cache: work.join("cache") };
        let path = create(&project, &NewCluster::single("lab"), NOW).unwrap().join(DEFINITION_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let node = |number: u8| format!("[[machine]]\nname = \"node-{number}\"\nrole = \"node\"\n");
        std::fs::write(&path, format!("{text}{}{}", node(1), node(2))).unwrap();
        Definition::of_name(&project, "lab").unwrap()
    }

    fn of(definition: &Definition, machine: &str) -> SeedOf {
        SeedOf { definition: definition.clone(), machine: machine.into(), with_keys: false }
    }

    /// An image as built, of holes but for its partition table.
    fn image(work: &Path) -> PathBuf {
        let path = work.join("disk.img");
        let mut file = File::create_new(&path).unwrap();
        file.set_len(spec::layout::image_size()).unwrap();
        images::gpt::write(&mut file, spec::layout::image_size(), &IMAGE_PARTITIONS, Identity::OfImage).unwrap();
        path
    }

    fn seed_partition(image: &Path) -> Vec<u8> {
        let mut bytes = vec![0; Partition::Seed.size().unwrap() as usize];
        File::open(image).unwrap().read_exact_at(&mut bytes, Partition::Seed.offset()).unwrap();
        bytes
    }

    fn holds(partition: &[u8], part: &[u8]) -> bool {
        partition.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn an_image_becomes_another_nodes_and_keeps_nothing_of_the_one_before() {
        let work = tempfile::tempdir().unwrap();
        let (definition, image) = (definition(work.path()), image(work.path()));
        write_seed(&of(&definition, "node-1"), &image, NOW).unwrap();
        let first = seed::read_path(&image, Partition::Seed.offset()).unwrap().files;
        let key = first[files::JOIN_KEY].clone();
        assert!(holds(&seed_partition(&image), &key));
        write_seed(&of(&definition, "node-2"), &image, NOW).unwrap();
        let second = seed::read_path(&image, Partition::Seed.offset()).unwrap().files;
        assert!(String::from_utf8_lossy(&second[files::MACHINE]).contains("node-2"));
        assert!(!holds(&seed_partition(&image), &key), "the first node's key is still on the stick");
        let open = GptConfig::new().only_valid_headers(true).open(&image);
        assert!(open.is_ok(), "the partition table is as it was");
    }

    #[test]
    fn an_image_of_another_role_is_refused_and_stays_as_it_is() {
        let work = tempfile::tempdir().unwrap();
        let (definition, image) = (definition(work.path()), image(work.path()));
        let generic = seed_files(&definition, None, Role::Master, NOW).unwrap();
        seed::write_path(&image, Partition::Seed.offset(), &generic).unwrap();
        let error = write_seed(&of(&definition, "node-1"), &image, NOW).unwrap_err();
        assert!(error.status() == 2 && error.to_string().contains("the image of a master"), "{error}");
        assert_eq!(seed::read_path(&image, Partition::Seed.offset()).unwrap().files, generic);
        write_seed(&of(&definition, "master-1"), &image, NOW).unwrap();
    }

    #[test]
    fn a_file_that_is_none_of_our_images_is_refused_untouched() {
        let work = tempfile::tempdir().unwrap();
        let definition = definition(work.path());
        let refused = |image: &Path, words: &str| {
            let error = write_seed(&of(&definition, "node-1"), image, NOW).unwrap_err();
            assert!(error.status() == 2 && error.to_string().contains(words), "{error}");
        };
        let empty = work.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        refused(&empty, "partition table");
        let zeros = work.path().join("zeros");
        File::create_new(&zeros).unwrap().set_len(spec::layout::image_size()).unwrap();
        refused(&zeros, "partition table");
        assert!(seed_partition(&zeros).iter().all(|byte| *byte == 0));
        let foreign = work.path().join("foreign");
        let mut file = File::create_new(&foreign).unwrap();
        file.set_len(spec::layout::image_size()).unwrap();
        images::gpt::write(
            &mut file,
            spec::layout::image_size(),
            &[Partition::Bios, Partition::Esp],
            Identity::OfImage,
        )
        .unwrap();
        refused(&foreign, "no partition 5");
        refused(&work.path().join("none"), "no such image");
        refused(work.path(), "is a folder");
    }
}
