//! Refusals: a clear message, the documented exit code, and nothing attached.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, LISTEN, Lab, Xdp, access, configuration, xdp};
use peertally_tests::executable;

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const RIGHTS: i32 = 77;

/// Runs the agent on `lab`'s router with `toml`, and checks that it refuses with `code`, saying all of `words`.
fn refuses(lab: &Lab, toml: &str, code: i32, words: &[&str]) -> Result<()> {
    let file = configuration(lab, toml)?;
    let mut command = lab.router_command(executable()?.to_str().context("a path in UTF-8")?);
    command.args(["run", "--config"]).arg(file);
    check(Agent::refusal(lab, &mut command)?, code, words)
}

fn check((found, said): (i32, String), code: i32, words: &[&str]) -> Result<()> {
    ensure!(found == code, "exit code {found}, not {code}: {said}");
    for word in words {
        ensure!(said.contains(word), "no word of `{word}` in: {said}");
    }
    ensure!(!said.contains("panicked"), "a panic: {said}");
    Ok(())
}

/// Nothing of ours is attached and nothing is pinned.
fn nothing_attached(lab: &Lab, interfaces: &[&str]) -> Result<()> {
    for interface in interfaces {
        ensure!(xdp(lab.router(), interface)?.is_none(), "{interface} has an XDP program");
    }
    let pins = lab::output(lab.router_command("find").args(["/sys/fs/bpf/peertally", "-not", "-type", "d"]))?;
    ensure!(pins.stdout.is_empty(), "pins are left: {}", String::from_utf8_lossy(&pins.stdout));
    Ok(())
}

#[test]
fn a_foreign_xdp_program_stays() -> Result<()> {
    if !lab::require("a_foreign_xdp_program_stays", &["xdp-filter"]) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    // The second interface: what was attached to the first must go again.
    let foreign = access(2);
    lab::run(lab.router_command("xdp-filter").args(["load", "-m", "native", "-p", "allow", &foreign]))?;
    let before = xdp(lab.router(), &foreign)?;
    let Some(Xdp { id, native: true }) = before else { anyhow::bail!("no native program: {before:?}") };
    refuses(&lab, "", UNAVAILABLE, &[&foreign, &id.to_string()])?;
    ensure!(xdp(lab.router(), &foreign)? == before, "the foreign program was touched");
    lab::run(lab.router_command("xdp-filter").args(["unload", &foreign]))?;
    nothing_attached(&lab, &["acc1", "acc2", "core0"])?;
    lab.close()
}

#[test]
fn a_missing_interface_is_named() -> Result<()> {
    if !lab::require("a_missing_interface_is_named", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    refuses(&lab, "[[interfaces]]\nname = \"nowhere7\"\nrole = \"access\"\n", UNAVAILABLE, &["nowhere7"])?;
    nothing_attached(&lab, &["acc1", "core0"])?;
    lab.close()
}

#[test]
fn a_port_in_use_is_named_before_anything_is_attached() -> Result<()> {
    if !lab::require("a_port_in_use_is_named_before_anything_is_attached", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let _taken = lab.router().inside(|| TcpListener::bind(LISTEN).context("take the port"))?;
    refuses(&lab, "", UNAVAILABLE, &["127.0.0.1:9847"])?;
    nothing_attached(&lab, &["acc1", "core0"])?;
    lab.close()
}

#[test]
fn an_unknown_key_is_named() -> Result<()> {
    if !lab::require("an_unknown_key_is_named", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    refuses(&lab, "drain_intervall = \"1s\"\n", USAGE, &["drain_intervall", "peertally.toml"])?;
    nothing_attached(&lab, &["acc1", "core0"])?;
    lab.close()
}

#[test]
fn missing_rights_are_named() -> Result<()> {
    if !lab::require("missing_rights_are_named", &["setpriv"]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    // Nobody may not enter the folders that the build's executable is in.
    let copy: PathBuf = lab.directory().join("peertally");
    fs::copy(executable()?, &copy)?;
    let file = configuration(&lab, "")?;
    let state = lab.directory().join("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777))?;
    let mut command = lab.router_command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy).args(["run", "--config"]).arg(file);
    check(Agent::refusal(&lab, &mut command)?, RIGHTS, &["root"])?;
    nothing_attached(&lab, &["acc1", "core0"])?;
    lab.close()
}
