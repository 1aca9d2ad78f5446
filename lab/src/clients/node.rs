//! Clients for Node.js: WebTorrent and libp2p. `cargo xtask setup` puts their packages into [`NODE_ENVIRONMENT`].

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::super::{
    Lab,
    netns::Namespace,
    process::Process,
    tools::{NODE_ENVIRONMENT, NODE_SOURCES},
    torrent::Transfer,
    wait::{wait_for, wait_for_some},
};

/// A script in Node.js.
#[derive(Debug)]
pub struct NodePeer {
    process: Process,
}

impl NodePeer {
    /// Starts `script` (of the folder `lab/peers/node`) with `arguments`, as `role`.
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(lab: &Lab, namespace: &Namespace, role: &str, script: &str, arguments: &[&str]) -> Result<Self> {
        // Node.js searches packages next to the script. Write under a new name first: another lab may run the old copy.
        let copy = Path::new(NODE_ENVIRONMENT).join(script);
        let fresh = Path::new(NODE_ENVIRONMENT).join(format!("{}-{role}-{script}", lab.name()));
        fs::copy(Path::new(NODE_SOURCES).join(script), &fresh).context("copy a script")?;
        fs::rename(&fresh, &copy)?;
        let mut command = namespace.command("node");
        command.arg(&copy).arg(role).args(arguments).current_dir(lab.directory());
        let process = Process::spawn(&format!("node-{role}"), lab.directory(), &mut command)?;
        Ok(Self { process })
    }

    /// Waits for the script's first line.
    ///
    /// # Errors
    /// The script ends or writes no line.
    pub fn wait_line(&mut self) -> Result<String> {
        wait_for_some("line of a script", Duration::from_secs(60), Duration::from_millis(100), || {
            self.process.ensure_running()?;
            Ok(self.process.log().split_once('\n').map(|(line, _rest)| line.to_owned()))
        })
    }

    /// Waits until the whole file is in `folder`.
    ///
    /// # Errors
    /// The transfer takes longer than `timeout`.
    pub fn wait_has(&mut self, transfer: &Transfer, folder: &Path, timeout: Duration) -> Result<()> {
        wait_for("complete file", timeout, Duration::from_millis(200), || {
            self.process.ensure_running()?;
            transfer.arrived(folder)
        })
        .with_context(|| self.process.log())
    }
}
