//! The root image: EROFS made by mkfs.erofs of a tools root.
//!
//! The tree goes in as a tar archive through a pipe: owners, modes and device nodes are what the
//! archive says, no root is needed, nothing is staged on disk, and neither umask nor folder nor time
//! can show in the result. (mkfs.erofs 1.8 compresses tar input with as many workers as a folder.)

use crate::tools::{ToolsError, ToolsRoot};
use crate::tree::{ArchiveError, Tree};
use crate::verity::{self, VerityError, VerityInfo};
use crate::{atomic, tree};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use thiserror::Error;
use uuid::Uuid;

/// Where Debian has the program.
pub const MKFS: &str = "/usr/bin/mkfs.erofs";
const BLOCK: u64 = spec::layout::VERITY_BLOCK_SIZE as u64;
/// Bytes of the tree that are gathered before they go to the program.
const PIPE_BUFFER: usize = 1 << 20;

#[derive(Debug, Error)]
pub enum ErofsError {
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error(transparent)]
    Tree(#[from] ArchiveError),
    #[error(transparent)]
    Verity(#[from] VerityError),
    #[error("root image: {0}")]
    Io(#[from] io::Error),
    #[error("root image: {0}")]
    Options(String),
}

/// How the data is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Zstd,
    Lz4,
    Lz4hc,
    None,
}

/// Settings of an image. The defaults are measured: see docs/decisions/0004-erofs-zstd.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub algorithm: Algorithm,
    /// Compression level; ignored for lz4, which has none.
    pub level: u32,
    /// Bytes of the largest physical cluster, a power of two from 4096 to 1 MiB. Larger ones are
    /// smaller in sum, and cost memory and latency when read.
    pub cluster_size: u32,
    /// Shares equal data between files. Makes the work single-threaded.
    pub dedupe: bool,
    /// Packs tails and small files together. Makes the work single-threaded.
    pub fragments: bool,
    /// Threads that compress; the result does not depend on them.
    pub workers: u32,
    /// Seconds since the epoch, of the image and of every file.
    pub time: u64,
    pub uuid: Uuid,
}

impl Options {
    /// The measured defaults, for an image of this time and UUID.
    pub fn new(time: u64, uuid: Uuid) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Options {
            algorithm: Algorithm::Zstd,
            level: 3,
            cluster_size: 65536,
            dedupe: false,
            fragments: false,
            workers,
            time,
            uuid,
        }
    }

    /// Arguments of mkfs.erofs, without image and source.
    ///
    /// # Errors
    /// A cluster size that EROFS does not have.
    pub fn arguments(&self) -> Result<Vec<String>, ErofsError> {
        let size = self.cluster_size;
        if !size.is_power_of_two() || !(4096..=1 << 20).contains(&size) {
            let message = format!("cluster size {size}: wanted a power of two from 4096 to 1048576");
            return Err(ErofsError::Options(message));
        }
        let mut arguments = vec!["--quiet".to_owned(), format!("-T{}", self.time), format!("-U{}", self.uuid)];
        match self.algorithm {
            Algorithm::Zstd => arguments.push(format!("-zzstd,level={}", self.level)),
            Algorithm::Lz4hc => arguments.push(format!("-zlz4hc,level={}", self.level)),
            Algorithm::Lz4 => arguments.push("-zlz4".to_owned()),
            Algorithm::None => {}
        }
        if self.algorithm != Algorithm::None {
            arguments.push(format!("-C{size}"));
            let extended: Vec<&str> = [(self.dedupe, "dedupe"), (self.fragments, "fragments")]
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, name)| *name)
                .collect();
            if !extended.is_empty() {
                arguments.push(format!("-E{}", extended.join(",")));
            }
        }
        // Extended attributes of the host have no place in the image.
        arguments.extend(["-x-1".to_owned(), format!("--workers={}", self.workers.max(1)), "--tar=f".to_owned()]);
        Ok(arguments)
    }
}

/// Writes the tree as an EROFS image to `target` (temporary, then renamed), its length a multiple of
/// 4096 bytes.
///
/// # Errors
/// The program is missing or fails (with what it said), or content of the tree cannot be read.
pub fn build(tools: &ToolsRoot, tree: &Tree, options: &Options, target: &Path) -> Result<(), ErofsError> {
    in_temporary(target, |image| make(tools, tree, options, image))
}

/// As [`build`], with the dm-verity tree behind the data: what a root slot holds.
///
/// # Errors
/// As [`build`] and [`verity::append`].
pub fn build_verified(
    tools: &ToolsRoot,
    tree: &Tree,
    options: &Options,
    salt: &[u8; 32],
    target: &Path,
) -> Result<VerityInfo, ErofsError> {
    in_temporary(target, |image| {
        make(tools, tree, options, image)?;
        Ok(verity::append(image, salt, options.uuid)?)
    })
}

/// Runs `work` on a path beside the target, and renames what it made when it went well.
fn in_temporary<T>(target: &Path, work: impl FnOnce(&Path) -> Result<T, ErofsError>) -> Result<T, ErofsError> {
    let folder = tempfile::Builder::new().prefix(".imgbuild-").tempdir_in(atomic::folder_of(target))?;
    let image = folder.path().join("root.erofs");
    let result = work(&image)?;
    let file = File::open(&image)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.sync_all()?;
    std::fs::rename(&image, target)?;
    File::open(atomic::folder_of(target))?.sync_all()?;
    Ok(result)
}

fn make(tools: &ToolsRoot, tree: &Tree, options: &Options, image: &Path) -> Result<(), ErofsError> {
    if !tools.has(MKFS) {
        return Err(ToolsError::Missing { root: tools.path().to_owned(), program: MKFS.to_owned() }.into());
    }
    let mut command = tools.command(MKFS);
    command.args(options.arguments()?).arg(image);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    run_with_tar(tools, command, tree, options.time)?;
    let file = File::options().write(true).open(image)?;
    let length = file.metadata()?.len();
    file.set_len(length.next_multiple_of(BLOCK))?;
    Ok(())
}

/// Feeds the tree to the program's input while its output is read, so that neither waits for the
/// other; the program's own failure explains a broken pipe.
fn run_with_tar(tools: &ToolsRoot, mut command: Command, tree: &Tree, time: u64) -> Result<(), ErofsError> {
    let mut child = command.spawn().map_err(|error| tools.start_error(MKFS, error))?;
    let input = child.stdin.take();
    let (fed, output) = std::thread::scope(|scope| {
        let feeder = scope.spawn(|| feed(tree, input, time));
        let output = wait(child);
        let panicked = |_| Err(ErofsError::Io(io::Error::other("the thread that feeds mkfs.erofs panicked")));
        (feeder.join().unwrap_or_else(panicked), output)
    });
    match (fed, tools.judge(MKFS, output)) {
        (Err(ErofsError::Tree(error)), judged) if !is_broken_pipe(&error) || judged.is_ok() => Err(error.into()),
        (fed, Ok(_)) => fed,
        (_, Err(error)) => Err(error.into()),
    }
}

fn feed(tree: &Tree, input: Option<impl Write>, time: u64) -> Result<(), ErofsError> {
    let input = input.ok_or_else(|| io::Error::other("mkfs.erofs has no input"))?;
    let mut writer = tree.write_tar(io::BufWriter::with_capacity(PIPE_BUFFER, input), time)?;
    writer.flush().map_err(|source| ArchiveError::Content { path: "/".to_owned(), source })?;
    Ok(())
}

fn wait(child: Child) -> io::Result<Output> {
    child.wait_with_output()
}

fn is_broken_pipe(error: &tree::ArchiveError) -> bool {
    matches!(error, ArchiveError::Content { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_fix_time_uuid_and_setting() {
        let options = Options { workers: 2, ..Options::new(1_700_000_000, Uuid::from_u128(1)) };
        let arguments = options.arguments().unwrap().join(" ");
        assert_eq!(
            arguments,
            "--quiet -T1700000000 -U00000000-0000-0000-0000-000000000001 -zzstd,level=3 -C65536 -x-1 --workers=2 --tar=f"
        );
        let packed = Options { dedupe: true, fragments: true, ..options.clone() };
        assert!(packed.arguments().unwrap().contains(&"-Ededupe,fragments".to_owned()));
        let odd = Options { cluster_size: 5000, ..options };
        assert!(odd.arguments().unwrap_err().to_string().contains("5000"));
    }

    #[test]
    fn a_tools_root_without_the_program_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("usr")).unwrap();
        let tools = ToolsRoot::new(folder.path()).unwrap();
        let options = Options::new(1, Uuid::nil());
        let target = folder.path().join("root.erofs");
        let message = build(&tools, &Tree::new(), &options, &target).unwrap_err().to_string();
        assert!(message.contains("has no /usr/bin/mkfs.erofs"), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }
}
