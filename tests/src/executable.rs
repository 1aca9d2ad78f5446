//! The agent's executable, for tests that start it.

use std::{env, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, Result, anyhow, ensure};
use peertally_lab::{output, without_package};

/// Names the agent's executable; without it, tests build the one of their own profile.
const AGENT_VARIABLE: &str = "PEERTALLY_BIN";

/// The agent's executable: the one that the variable `PEERTALLY_BIN` names, else one built now in the profile and
/// target folder of the calling test.
///
/// # Errors
/// The executable cannot be built.
pub fn executable() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(|error| anyhow!(error))
}

fn build() -> Result<PathBuf> {
    if let Some(path) = env::var_os(AGENT_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    // A test is <target>/<profile>/deps/<test>.
    let test = env::current_exe()?;
    let folder = test.ancestors().nth(2).context("a test below a target folder")?;
    let target = folder.parent().context("a profile below a target folder")?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "build",
        "--quiet",
        "--package",
        "monitor",
        "--bin",
        "peertally",
    ]);
    command.arg("--target-dir").arg(target);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    without_package(&mut command);
    let built = output(&mut command)?;
    ensure!(built.status.success(), "the agent does not build: {}", String::from_utf8_lossy(&built.stderr));
    Ok(folder.join("peertally"))
}
