//! The `peertally` command: reads the command line and hands over to one library module per subcommand.

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser};
use peertally::{
    cli::{AuditCommand, Cli, Command},
    verbs::{
        Format, audit, check_config, detach, doctor, events, generate, init, plan, policies, records, reload, replay,
        resolve, run, status,
    },
};
use peertally_core::exit::{Exit, ExitCause};
use peertally_datapath::attached::AttachedDatapath;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to the caller. Nothing is left to do if the terminal is
            // gone.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return error.print().map_or(Exit::Usage, |()| exit).into();
        }
    };
    match cli.command {
        Command::CheckConfig { file } => match check_config::check(file.as_deref()) {
            Ok(checked) => {
                checked.warnings.iter().for_each(|warning| eprintln!("peertally: warning: {warning}"));
                show(&checked.summary)
            }
            Err(error) => fail(&error),
        },
        Command::Run(args) => match run::main(&args, |resolved| {
            AttachedDatapath::start(&resolved.datapath, &resolved.interfaces, resolved.xdp_mode)
        }) {
            Ok(()) => Exit::Ok.into(),
            Err(error) => {
                let code = fail(&error);
                // The first reason is rarely the only one.
                if matches!(error.exit(), Exit::Unavailable | Exit::Rights) {
                    for finding in doctor::after_refusal(&args) {
                        eprint!("{}", doctor::line(&finding));
                    }
                }
                code
            }
        },
        Command::Audit { command: AuditCommand::Verify { files, config } } => {
            match audit::verify(&files, config.as_deref()) {
                Ok(text) => show(&text),
                Err(error) => fail(&error),
            }
        }
        Command::Detach { purge: true, config } => match detach::purge(config.as_deref()) {
            Ok(removed) => show(&removed),
            Err(error) => fail(&error),
        },
        Command::Detach { purge: false, config } => match detach::main() {
            Ok(removed) => {
                // The program is off, which is what was asked for.
                if let Err(error) = audit::record_detach(config.as_deref()) {
                    eprintln!("peertally: the program is detached, but cannot record that: {error}");
                }
                show(&removed)
            }
            Err(error) => fail(&error),
        },
        Command::Events(args) => match events::main(&args) {
            Ok(text) => show(&text),
            Err(error) => fail(&error),
        },
        Command::Policies { command } => match policies::main(&command) {
            Ok(text) => show(&text),
            Err(error) => fail(&error),
        },
        Command::Generate { folder } => match generate::generate(&Cli::command(), &folder) {
            Ok(text) => show(&text),
            Err(error) => fail(&error),
        },
        Command::Doctor(args) => match doctor::main(&args) {
            Ok(report) => {
                let shown = show(&match args.format {
                    Format::Table => doctor::show(&report),
                    Format::Json => doctor::json(&report),
                });
                let exit = report.exit();
                if exit == Exit::Ok { shown } else { exit.into() }
            }
            Err(error) => fail(&error),
        },
        Command::Init(args) => match init::main(&args) {
            Ok(text) => show(&text),
            Err(error) => fail(&error),
        },
        Command::Plan(args) => match plan::main(&args) {
            Ok(plan) => show(&match args.format {
                Format::Table => plan::show(&plan),
                Format::Json => plan::json(&plan),
            }),
            Err(error) => fail(&error),
        },
        Command::Records(args) => match records::main(&args) {
            Ok(text) => show(&text),
            Err(error) => fail(&error),
        },
        Command::Replay(args) => replay::main(&args),
        Command::Resolve { pseudonym, config } => match resolve::resolve(&pseudonym, config.as_deref()) {
            Ok(subscriber) => show(&subscriber),
            Err(error) => fail(&error),
        },
        Command::Reload { check, agent } => match reload::ask(&agent.socket, check) {
            Ok(report) => {
                let shown = show(&match agent.format {
                    Format::Table => reload::show(&report),
                    Format::Json => reload::json(&report),
                });
                let exit = reload::exit(&report);
                if exit == Exit::Ok { shown } else { exit.into() }
            }
            Err(error) => fail(&error),
        },
        Command::Status(agent) => match status::query(&agent.socket) {
            Ok(status) => show(&match agent.format {
                Format::Table => status::show(&status),
                Format::Json => status::json(&status),
            }),
            Err(error) => {
                eprint!("{}", status::without_agent());
                fail(&error)
            }
        },
    }
}

/// Writes the answer. A reader that has read enough (`| head`) is no error.
fn show(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("peertally: {error}");
            Exit::Unavailable.into()
        }
        _ => Exit::Ok.into(),
    }
}

/// Says why nothing was done.
fn fail(error: &dyn ExitCause) -> ExitCode {
    eprintln!("peertally: {error}");
    error.exit().into()
}
