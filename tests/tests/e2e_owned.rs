//! Well-known paths belong to the agent: other users of the machine can neither hold its lock, nor make or change its
//! pins, nor ask its control socket.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Lab, configuration};
use peertally_tests::executable;

const KEYS: &str = "drain_interval = \"200ms\"\non_exit = \"detach\"\n";
const PINS: &str = "/sys/fs/bpf/peertally";
const LOCK: &str = "/run/peertally/run.lock";
const UNAVAILABLE: i32 = 69;

/// A command as user `nobody`, in the router's network and mounts.
fn nobody(lab: &Lab, program: &str) -> Command {
    let mut command = lab.router_command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

/// Whether a command ends well.
fn works(command: &mut Command) -> Result<bool> {
    Ok(lab::output(command)?.status.success())
}

/// Mode and owner of a path in the router's mounts.
fn rights(lab: &Lab, path: &str) -> Result<String> {
    let found = lab::output(lab.router_command("stat").args(["--format=%a %u", path]))?;
    Ok(String::from_utf8_lossy(&found.stdout).trim().to_owned())
}

#[test]
fn another_user_cannot_hold_the_lock() -> Result<()> {
    if !lab::require("another_user_cannot_hold_the_lock", &["setpriv", "flock"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    // What earlier versions left: readable by all.
    let old = format!("mkdir -m 755 /run/peertally && touch {LOCK} && chmod 644 {LOCK}");
    lab::run(lab.router_command("sh").args(["-c", &old]))?;
    ensure!(works(nobody(&lab, "flock").args(["-n", LOCK, "true"]))?, "nobody can hold a lock that all can open");
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    ensure!(rights(&lab, "/run/peertally")? == "700 0" && rights(&lab, LOCK)? == "600 0");
    ensure!(!works(nobody(&lab, "flock").args(["-n", LOCK, "true"]))?, "nobody opened the lock");
    ensure!(!works(lab.router_command("flock").args(["-n", LOCK, "true"]))?, "the agent does not hold its lock");
    drop(agent);
    ensure!(!works(nobody(&lab, "flock").args(["-n", LOCK, "true"]))?, "nobody opened the lock");
    drop(Agent::start(&lab, &executable()?, KEYS)?);
    lab.close()
}

#[test]
fn a_pin_folder_of_another_user_is_refused_and_left_alone() -> Result<()> {
    if !lab::require("a_pin_folder_of_another_user_is_refused_and_left_alone", &["setpriv"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let peertally = executable()?;
    let peertally = peertally.to_str().context("a path in UTF-8")?;
    let file = configuration(&lab, KEYS)?;
    let refused = |words: &[&str]| -> Result<()> {
        let run = lab::output(lab.router_command(peertally).args(["run", "--config"]).arg(&file))?;
        let detach = lab::output(lab.router_command(peertally).arg("detach"))?;
        for output in [run, detach] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(UNAVAILABLE), "{:?}: {said}", output.status);
            ensure!(words.iter().all(|word| said.contains(word)), "{said}");
        }
        Ok(())
    };
    // The lab mounts the BPF file system as `mount -t bpf` does: all may make folders there.
    let folder = format!("{PINS}/v1");
    lab::run(nobody(&lab, "mkdir").args(["-p", &folder]))?;
    refused(&["belongs to user 65534", PINS])?;
    ensure!(rights(&lab, &folder)?.ends_with(" 65534"), "the folder of another user was removed");
    lab::run(nobody(&lab, "rmdir").args(["-p", "--ignore-fail-on-non-empty", &folder]))?;
    lab::run(lab.router_command("mkdir").args(["-m", "777", PINS]))?;
    refused(&["other users can write", "chmod go-w"])?;
    lab::run(lab.router_command("rmdir").arg(PINS))?;

    let agent = Agent::start(&lab, peertally.as_ref(), KEYS)?;
    ensure!(rights(&lab, PINS)? == "700 0", "{}", rights(&lab, PINS)?);
    ensure!(!works(nobody(&lab, "ls").arg(PINS))?, "nobody sees the pins");
    drop(agent);
    lab.close()
}

#[test]
fn a_state_folder_that_others_can_write_is_refused() -> Result<()> {
    if !lab::require("a_state_folder_that_others_can_write_is_refused", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let file = configuration(&lab, KEYS)?;
    let state = lab.directory().join("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777))?;
    let mut run = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
    let (code, said) = Agent::refusal(&lab, run.args(["run", "--config"]).arg(file))?;
    ensure!(code == UNAVAILABLE && said.contains("other users can write") && said.contains("state"), "{code}: {said}");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
    drop(Agent::start(&lab, &executable()?, KEYS)?);
    ensure!(fs::metadata(&state)?.permissions().mode() & 0o777 == 0o700, "others can look into the state");
    lab.close()
}

#[test]
fn a_bpf_file_system_that_the_agent_mounts_is_closed() -> Result<()> {
    if !lab::require("a_bpf_file_system_that_the_agent_mounts_is_closed", &["setpriv", "findmnt"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    lab::run(lab.router_command("umount").arg("/sys/fs/bpf"))?;
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    let options = lab::output(lab.router_command("findmnt").args(["--noheadings", "--output=OPTIONS", "/sys/fs/bpf"]))?;
    let options = String::from_utf8_lossy(&options.stdout).into_owned();
    for option in ["nosuid", "nodev", "noexec", "mode=700"] {
        ensure!(options.contains(option), "no {option} in {options}");
    }
    ensure!(!works(nobody(&lab, "mkdir").arg("/sys/fs/bpf/mine"))?, "nobody may make pins");
    drop(agent);
    lab.close()
}

#[test]
fn the_control_socket_answers_root_alone() -> Result<()> {
    if !lab::require("the_control_socket_answers_root_alone", &["setpriv", "curl"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let agent = Agent::start(&lab, &executable()?, KEYS)?;
    let socket = lab.directory().join("control.sock");
    let ask = |mut command: Command| works(command.args(["-sf", "http://x/status", "--unix-socket"]).arg(&socket));
    ensure!(!ask(nobody(&lab, "curl"))?, "the mode lets all in");
    // Whatever the mode, the kernel says who asks.
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    ensure!(!ask(nobody(&lab, "curl"))?, "nobody was answered");
    ensure!(ask(lab.router_command("curl"))?, "root was not answered");
    let labels = [("listener", "control"), ("reason", "foreign_user")];
    ensure!(agent.metrics()?.sum("peertally_connections_given_up_total", &labels) == 1);
    drop(agent);
    lab.close()
}
