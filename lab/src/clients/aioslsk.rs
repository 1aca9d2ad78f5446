//! aioslsk, a Soulseek client in Python, clear and obfuscated. `cargo xtask setup` puts it into [`PYTHON`]'s
//! environment.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::super::{
    Lab, netns::Namespace, process::Process, servers::soulseek::SOULSEEK_PORT, tools::PYTHON, torrent::Transfer,
    wait::wait_for,
};

/// The script that holds the client.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/soulseek_peer.py");

/// A Soulseek client.
#[derive(Debug)]
pub struct Aioslsk {
    process: Process,
    folder: PathBuf,
}

impl Aioslsk {
    /// Starts one called `name` that shares `folder`, or downloads to it what `arguments` (of the script) ask for.
    ///
    /// # Errors
    /// The client does not start, or cannot log in.
    pub fn start(
        lab: &Lab,
        namespace: &Namespace,
        name: &str,
        server: Ipv4Addr,
        folder: &Path,
        obfuscated: bool,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut command = namespace.command(PYTHON);
        command.args([SCRIPT, name, &server.to_string(), &SOULSEEK_PORT.to_string()]).arg(folder);
        command.arg(if obfuscated { "obfuscated" } else { "clear" }).args(arguments);
        // It would keep its settings' defaults in the folder it is started from.
        command.current_dir(lab.subdirectory(&format!("aioslsk-{name}"))?);
        let process = Process::spawn(&format!("aioslsk-{name}"), lab.directory(), &mut command)?;
        let mut client = Self { process, folder: folder.to_owned() };
        wait_for("login of aioslsk", Duration::from_secs(30), Duration::from_millis(100), || {
            client.process.ensure_running()?;
            Ok(client.process.log().lines().any(|line| line == "ready"))
        })
        .with_context(|| client.process.log())?;
        Ok(client)
    }

    /// Waits until the whole file has arrived.
    ///
    /// # Errors
    /// The client takes longer than `timeout`.
    pub fn wait_has(&mut self, transfer: &Transfer, timeout: Duration) -> Result<()> {
        wait_for("complete file", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            transfer.arrived(&self.folder)
        })
        .with_context(|| self.process.log())
    }
}
