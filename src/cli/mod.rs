//! Floor 10: words in, words out. One file a command; only here is anything printed.

mod act;
mod approval;
mod case;
mod cat;
mod chain;
mod export;
mod extract;
mod find;
mod hash;
mod image;
mod instances;
mod leave;
mod listing;
mod live;
mod log;
mod ls;
mod out;
mod progress;
mod signal;
mod source;
mod stat;
mod verify;
mod volumes;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use coldread::effort::Effort;
use coldread::error::Result;

use out::{Exit, Voice};

/// Reads the disks of OpenStack Nova instances without changing them.
///
/// Follows a qcow2 overlay into `_base`, finds volumes and filesystems, lists, copies out with checksums. Never writes to
/// a source, mounts nothing, takes no locks.
#[derive(Parser)]
#[command(name = "coldread", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes: 0 complete, 1 answered with gaps or a check that failed, 2 no answer, 3 something was refused,
4 an instance may not be as it was found.

Examples:
  coldread instances /srv/copied/instances
  coldread volumes /srv/copied/instances/6f3c1f0e-2b7d-4a54-9d3c-0f5e7a1b0981
  coldread ls -l web-1 /var/log --ticket OPS-7 --approved-by alice --reason 'disk full'
  coldread extract web-1 /etc /var/log --to evidence --ticket OPS-7 --approved-by alice --reason 'disk full'")]
struct Cli {
    /// Answer in JSON: one document, or one object a line where the answer is a list
    #[arg(long, global = true)]
    json: bool,

    /// Say nothing beside the answer and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,

    /// Draw no progress bar
    #[arg(long, global = true)]
    no_progress: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
enum Command {
    /// List every instance of a Nova instances tree
    Instances(instances::Args),
    /// Show an image's layers, down to the base
    Chain(chain::Args),
    /// Show partitions, logical volumes and filesystems
    Volumes(volumes::Args),
    /// List a directory
    Ls(ls::Args),
    /// Find files by name, type, size, time, owner, mode
    Find(find::Args),
    /// Show all metadata of files: times, attributes, ACLs, and where their bytes lie
    Stat(stat::Args),
    /// Print a file's content
    Cat(cat::Args),
    /// Copy files out, with checksums and a manifest
    Extract(extract::Args),
    /// Check what was extracted against its manifest
    Verify(verify::Args),
    /// Print digests of files, without copying them
    Hash(hash::Args),
    /// Write the flattened disk or a volume as a sparse raw file, with its SHA-256
    Image(image::Args),
    /// Serve the disk and its volumes over NBD, read-only
    Export(export::Args),
    /// List live instances; show and put back what coldread paused
    Live(live::Args),
    #[command(hide = true)]
    Watchdog(live::Watchdog),
    /// Open, show, verify, report on and close cases
    Case(case::Args),
    /// Write approvals for people to sign, and judge their signatures
    Approval(approval::Args),
    /// Show, verify and prove the audit log
    Log(log::Args),
}

/// What every command gets: how to speak, and what can stop it.
pub struct Context {
    /// How to speak.
    pub voice: Voice,
    /// Cancellation, findings, progress.
    pub effort: Arc<Effort>,
}

/// Parses the command line, runs the command, and turns its end into an exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; everything else is bad usage.
            let code = if error.use_stderr() { Exit::Failed } else { Exit::Complete };
            let _ = error.print();
            return ExitCode::from(code.code());
        }
    };
    let color = match cli.color {
        When::Auto => out::on_terminal() && std::env::var_os("NO_COLOR").is_none(),
        When::Always => true,
        When::Never => false,
    };
    let voice = Voice {
        json: cli.json,
        quiet: cli.quiet,
        verbose: cli.verbose,
        color,
        progress: !cli.no_progress && !cli.quiet,
    };
    let context = Context { voice, effort: Effort::new(signal::cancelled()) };
    let result = run(cli.command, &context);
    voice.findings(&context.effort);
    let exit = match result {
        Ok(exit) => exit,
        Err(error) if out::is_closed_pipe(&error) => Exit::Complete,
        Err(error) => {
            voice.error(&error);
            Exit::of(&error)
        }
    };
    ExitCode::from(exit.code())
}

fn run(command: Command, context: &Context) -> Result<Exit> {
    match command {
        Command::Instances(args) => args.run(context),
        Command::Chain(args) => args.run(context),
        Command::Volumes(args) => args.run(context),
        Command::Ls(args) => args.run(context),
        Command::Find(args) => args.run(context),
        Command::Cat(args) => args.run(context),
        Command::Verify(args) => args.run(context),
        Command::Hash(args) => args.run(context),
        Command::Stat(args) => args.run(context),
        Command::Extract(args) => args.run(context),
        Command::Image(args) => args.run(context),
        Command::Export(args) => args.run(context),
        Command::Live(args) => args.run(context),
        Command::Watchdog(args) => args.run(),
        Command::Case(args) => args.run(context),
        Command::Approval(args) => args.run(context),
        Command::Log(args) => args.run(context),
    }
}
