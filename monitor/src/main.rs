//! The `peertally` command: reads the command line and hands over to one library module per subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use peertally::{exit::Exit, replay};

/// Counts P2P protocol traffic per subscriber in the kernel; never touches, delays or blocks a packet.
#[derive(Parser)]
#[command(name = "peertally", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Replay(replay::args::ReplayArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to the caller. Nothing is left to do if the terminal is gone.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return error.print().map_or(Exit::Usage, |()| exit).into();
        }
    };
    match cli.command {
        Command::Replay(args) => replay::main(&args),
    }
}
