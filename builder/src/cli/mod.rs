//! The command line: syntax here, one file a subcommand, meaning in [`crate::request`].

mod build;
mod bundle;
mod burn;
mod check;
mod cluster;
mod completions;
mod doctor;
mod etcd;
mod explain;
mod fetch;
mod iso;
mod key;
mod lock;
mod man;
mod node;
mod power;
mod run;
mod serve;
mod upgrade;
mod vendor;

use crate::error::{Error, Result, render};
use crate::profile::{self, Profile};
use crate::progress::{Mode, Progress};
use crate::project::Project;
use crate::request::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

const ABOUT: &str = "Builds bootable, immutable Kubernetes machines out of profiles";

const EXAMPLES: &str = "\
Examples:
  imgbuild --profile master                    build out/master, for the cluster `default`
  imgbuild --profile master --profile vm       the same with the cloud kernel, into out/master-vm
  imgbuild --profile master --burn /dev/sdb    the same, and onto a stick
  imgbuild run out/master-vm/disk.img          boot it in a virtual machine until it is Ready
  imgbuild --profile ./my.toml                 your own profile, which may extend ours
  imgbuild explain --profile master            every value with the line that it came from
  imgbuild cluster new lab --masters 3         a cluster definition and its secrets, clusters/lab
  imgbuild cluster status lab                  every machine of it that runs, on one screen
  imgbuild bundle out/master                   a signed bundle of that build
  imgbuild node master-1 upgrade FILE          write it to the machine's other slot, and restart into it
  imgbuild upgrade --cluster lab FILE FILE      the same for each machine of a cluster, one after the other
  imgbuild serve out/node --cluster lab        racks that are switched on start from here
  imgbuild iso out/node --cluster lab --machine n1 --to n1.iso   the same as a CD image, for a BMC's virtual media
  imgbuild node master-1 logs etcd -f          what a service of a machine says, and goes on to say
  imgbuild doctor                              what this host lacks, and the command that mends it

Exit status: 0 done, 1 the work failed, 2 something in the input is wrong.";

#[derive(Parser)]
#[command(name = "imgbuild", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    build: build::BuildArguments,
    #[command(flatten)]
    global: Global,
}

#[derive(Subcommand)]
enum Command {
    /// Build an image (the same as no command at all)
    Build(build::BuildArguments),
    /// Check what a build would be made of: profile, cluster definition, what the machines' DNS makes of it
    Check(check::CheckArguments),
    /// Show every resolved value, and where it came from
    Explain(explain::ExplainArguments),
    /// Boot an image in a virtual machine
    Run(run::RunArguments),
    /// Write an image to sticks, or list the disks that can be pulled out
    Burn(burn::BurnArguments),
    /// Make a signed upgrade bundle out of a build
    Bundle(bundle::BundleArguments),
    /// The key that bundles are signed with
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Clusters: make, check and show definitions; status and orders of those that run
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// One machine that runs: status, logs, hardware, reboot, reset
    Node(node::NodeArguments),
    /// Ask machines' BMCs (Redfish): whether they are on, switch them, choose what they start from
    Power(power::PowerArguments),
    /// Roll a new image through a cluster, one machine after the other
    Upgrade(upgrade::UpgradeArguments),
    /// Let machines start from the network: proxyDHCP, TFTP, HTTP, and their seeds by TLS
    Serve(serve::ServeArguments),
    /// Make a CD image for a BMC's virtual media: the machine reads it once, into memory
    Iso(iso::IsoArguments),
    /// A cluster's etcd
    #[command(subcommand)]
    Etcd(etcd::EtcdCommand),
    /// Check what this host lacks
    Doctor,
    /// Resolve packages and versions into the profile's lock
    Lock(lock::LockArguments),
    /// Download everything that a build needs into the cache
    Fetch(fetch::FetchArguments),
    /// Write everything that a lock needs into a folder, to build from it elsewhere
    Vendor(vendor::VendorArguments),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArguments),
    /// Print the manual page, or write all of them into a folder
    Man(man::ManArguments),
}

#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Say more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 900)]
    verbose: u8,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 901)]
    quiet: bool,
    /// Write JSON for scripts: events, one object a line, or the result
    #[arg(long, global = true, display_order = 902)]
    json: bool,
    /// Use nothing but the cache
    #[arg(long, global = true, display_order = 903)]
    offline: bool,
    /// Refuse to build when the lock is missing or does not fit the profile
    #[arg(long, global = true, display_order = 904)]
    locked: bool,
    /// Debian archive, or a folder made by `imgbuild vendor` [default: this machine's apt sources]
    #[arg(long, global = true, value_name = "URL|DIR", display_order = 905)]
    mirror: Option<String>,
    /// Cache [default: $XDG_CACHE_HOME/imgbuild or ~/.cache/imgbuild]
    #[arg(long, global = true, value_name = "DIR", display_order = 906)]
    cache: Option<PathBuf>,
    /// Threads and parallel downloads [default: the number of processors]
    #[arg(short, long, global = true, value_name = "N", display_order = 907)]
    jobs: Option<NonZeroUsize>,
    /// The project's folder [default: found from here upwards, or where this program was built]
    #[arg(long, global = true, value_name = "DIR", display_order = 908)]
    project: Option<PathBuf>,
}

/// The profiles of a command.
#[derive(Args, Clone)]
struct ProfileArguments {
    /// Profile of the project, or path of a TOML file of your own; several combine, later ones win
    #[arg(short, long = "profile", value_name = "NAME|FILE", required = true)]
    profile: Vec<String>,
}

impl ProfileArguments {
    fn load(&self, context: &Context) -> Result<Profile> {
        Profile::load(&context.project, &self.profile)
    }
}

impl Global {
    fn context(&self) -> Result<Context> {
        let project = Project::find(self.project.as_deref(), self.cache.as_deref())?;
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Context {
            project,
            progress: Progress::new(Mode::choose(self.json, self.quiet)),
            offline: self.offline,
            locked: self.locked,
            mirror: self.mirror.clone(),
            jobs: self.jobs.unwrap_or(processors),
            verbosity: self.verbose,
            json: self.json,
        })
    }
}

/// Runs the command line of this process and gives its exit status.
pub fn main() -> ExitCode {
    let mut command = Cli::command();
    let matches = match command.try_get_matches_from_mut(std::env::args_os()) {
        Ok(matches) => matches,
        Err(error) => return usage_error(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error.format(&mut command)),
    };
    match crate::interrupt::install().and_then(|()| execute(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show(&error, cli.global.json);
            ExitCode::from(error.status())
        }
    }
}

/// Runs a command line of the caller's, its first word the program's name.
///
/// # Errors
/// What [`main`] would show; a wrong command line is bad input.
pub fn run<S: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = S>) -> Result<()> {
    let cli = Cli::try_parse_from(arguments).map_err(|error| Error::bad_input(error.to_string()))?;
    execute(&cli)
}

/// clap's own text; 0 for --help and --version, 2 for a wrong command line.
fn usage_error(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn execute(cli: &Cli) -> Result<()> {
    let context = cli.global.context()?;
    let Some(command) = &cli.command else {
        return match cli.build.profile.is_empty() {
            true => Err(no_profile(&context)),
            false => build::execute(context, &cli.build),
        };
    };
    if !cli.build.is_empty() {
        return Err(Error::bad_input("an option of `build` stands before another command")
            .help("write options behind the command: imgbuild explain --profile master"));
    }
    match command {
        Command::Build(arguments) if arguments.profile.is_empty() => Err(no_profile(&context)),
        Command::Build(arguments) => build::execute(context, arguments),
        Command::Check(arguments) => check::execute(&context, arguments),
        Command::Explain(arguments) => explain::execute(&context, arguments),
        Command::Run(arguments) => run::execute(context, arguments),
        Command::Burn(arguments) => burn::execute(&context, arguments),
        Command::Bundle(arguments) => bundle::execute(&context, arguments),
        Command::Key(command) => key::execute(&context, command),
        Command::Cluster(command) => cluster::execute(&context, command),
        Command::Node(arguments) => node::execute(&context, arguments),
        Command::Power(arguments) => power::execute(&context, arguments),
        Command::Upgrade(arguments) => upgrade::execute(&context, arguments),
        Command::Serve(arguments) => serve::execute(&context, arguments),
        Command::Iso(arguments) => iso::execute(&context, arguments),
        Command::Etcd(command) => etcd::execute(&context, command),
        Command::Doctor => doctor::execute(&context),
        Command::Lock(arguments) => lock::execute(&context, arguments),
        Command::Fetch(arguments) => fetch::execute(&context, arguments),
        Command::Vendor(arguments) => vendor::execute(&context, arguments),
        Command::Completions(arguments) => completions::execute(arguments),
        Command::Man(arguments) => man::execute(arguments),
    }
}

fn no_profile(context: &Context) -> Error {
    Error::bad_input("which profile?").help(format!(
        "imgbuild --profile NAME, where NAME is one of {}, or the path of a file of your own; imgbuild --help says more",
        profile::available(&context.project).join(", ")
    ))
}

/// The error on standard error, for a person or (with `--json`) as the last event.
fn show(error: &Error, json: bool) {
    if json {
        let mut event = serde_json::json!({ "event": "error", "status": error.status() });
        event["error"] = error.problem().to_json();
        let _ = print(&format!("{event}\n"));
        return;
    }
    let mut stream = std::io::stderr();
    let colours = stream.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Nobody is left to tell when the terminal is gone.
    let _ = stream.write_all(render(error, colours).as_bytes());
}

/// Writes a result to standard output; a reader that has seen enough is no error.
fn print(text: &str) -> Result<()> {
    let mut stream = std::io::stdout();
    match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::because("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// The same for a JSON document.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_build() {
        let cli = Cli::try_parse_from(["imgbuild", "--profile", "master", "--profile", "vm", "--out", "x"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.build.profile, ["master", "vm"]);
    }

    #[test]
    fn a_profile_may_be_called_as_a_command_is() {
        let cli = Cli::try_parse_from(["imgbuild", "--profile", "node", "-p", "run", "--cluster", "etcd"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.build.profile, ["node", "run"]);
        let cli = Cli::try_parse_from(["imgbuild", "build", "--profile", "node"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Build(arguments)) if arguments.profile == ["node"]));
    }

    #[test]
    fn global_options_stand_before_or_behind_a_command() {
        for arguments in [["imgbuild", "--json", "doctor"], ["imgbuild", "doctor", "--json"]] {
            assert!(Cli::try_parse_from(arguments).unwrap().global.json);
        }
    }
}
