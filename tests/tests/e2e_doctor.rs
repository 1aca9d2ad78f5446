//! `peertally doctor` and `init` on a router made of namespaces: what they find is there, and a good router is clean.

use std::{
    net::UdpSocket,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use peertally_lab::{self as lab, Agent, Lab, access, configuration};
use peertally_tests::executable;
use serde_json::Value;

/// Runs `doctor` on the router; returns its exit code and its findings.
fn doctor(lab: &Lab, toml: &str, seconds: u64) -> Result<(i32, Vec<Value>)> {
    let file = configuration(lab, toml)?;
    let mut command = peertally(lab)?;
    command.args(["doctor", "--format", "json", "--cost-seconds", &seconds.to_string(), "--config"]).arg(file);
    let output = command.output().context("run doctor")?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("a report: {}", String::from_utf8_lossy(&output.stderr)))?;
    let findings = report["findings"].as_array().context("findings")?.clone();
    Ok((output.status.code().context("ends by itself")?, findings))
}

fn peertally(lab: &Lab) -> Result<Command> {
    Ok(lab.router_command(executable()?.to_str().context("a path in UTF-8")?))
}

fn has(findings: &[Value], check: &str, severity: &str, interface: Option<&str>) -> bool {
    findings.iter().any(|finding| {
        finding["check"] == check
            && finding["severity"] == severity
            && interface.is_none_or(|interface| finding["interface"] == interface)
    })
}

fn errors(findings: &[Value]) -> Vec<&Value> {
    findings.iter().filter(|finding| finding["severity"] == "error").collect()
}

#[test]
fn a_good_router_has_no_error_and_each_fault_is_found_with_its_fix() -> Result<()> {
    if !lab::require("a_good_router_has_no_error_and_each_fault_is_found_with_its_fix", &["xdp-filter"]) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    let (code, findings) = doctor(&lab, "", 0)?;
    ensure!(errors(&findings).is_empty() && code < 2, "{code}: {findings:#?}");
    for interface in ["acc1", "acc2", "core0"] {
        ensure!(has(&findings, "mode", "ok", Some(interface)), "{interface}: {findings:#?}");
    }
    // Another program on one interface, one that is down, and one that is not there.
    let foreign = access(2);
    lab::run(lab.router_command("xdp-filter").args(["load", "-m", "native", "-p", "allow", &foreign]))?;
    lab.router().ip("link set acc1 down")?;
    let (code, findings) = doctor(&lab, "[[interfaces]]\nname = \"nowhere7\"\n", 0)?;
    ensure!(code == 2, "{code}");
    ensure!(has(&findings, "hook", "error", Some(&foreign)), "{findings:#?}");
    ensure!(has(&findings, "link", "warning", Some("acc1")), "{findings:#?}");
    ensure!(has(&findings, "interface", "error", Some("nowhere7")), "{findings:#?}");
    for finding in findings.iter().filter(|finding| finding["severity"] == "error" || finding["severity"] == "warning")
    {
        ensure!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "no fix: {finding}");
    }
    // The same checks speak when `run` refuses.
    let file = configuration(&lab, "")?;
    let (code, said) = Agent::refusal(&lab, peertally(&lab)?.args(["run", "--config"]).arg(file))?;
    ensure!(code == 69 && said.contains("error    hook"), "{code}: {said}");
    lab::run(lab.router_command("xdp-filter").args(["unload", &foreign]))?;
    lab.close()
}

#[test]
fn the_cost_of_a_running_program_is_measured_and_the_statistics_go_off() -> Result<()> {
    if !lab::require("the_cost_of_a_running_program_is_measured_and_the_statistics_go_off", &[]) {
        return Ok(());
    }
    let lab = Lab::new(1)?;
    let agent = Agent::start(&lab, &executable()?, "")?;
    let socket = lab.subscriber(1).inside(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let done = AtomicBool::new(false);
    let (code, findings) = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // The discard port answers with a refusal, which the next send reports.
                let _refused = socket.send_to(&[0; 100], (lab::INTERNET_V4, 9));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let found = doctor(&lab, "", 2);
        done.store(true, Ordering::Relaxed);
        found
    })?;
    ensure!(code < 2, "{code}: {findings:#?}");
    ensure!(has(&findings, "agent", "ok", None) && has(&findings, "port", "ok", None), "{findings:#?}");
    let cost = findings.iter().find(|finding| finding["check"] == "cost").context("a cost")?;
    ensure!(cost["found"].as_str().is_some_and(|text| text.contains("ns a frame")), "{cost}");
    let statistics = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")?;
    ensure!(statistics.trim() == "0", "the kernel's run statistics are on");
    drop(agent);
    lab.close()
}

#[test]
fn a_first_configuration_is_valid_and_names_the_routers_sides() -> Result<()> {
    if !lab::require("a_first_configuration_is_valid_and_names_the_routers_sides", &[]) {
        return Ok(());
    }
    let lab = Lab::new(2)?;
    lab.router().ip(&format!("route add default via {}", lab::INTERNET_V4))?;
    let file = lab.directory().join("first.toml");
    lab::run(peertally(&lab)?.args(["init", "--output"]).arg(&file))?;
    let text = std::fs::read_to_string(&file)?;
    for (name, role) in [("acc1", "access"), ("acc2", "access"), ("core0", "core")] {
        ensure!(text.contains(&format!("name = \"{name}\"\nrole = \"{role}\"")), "{name}: {text}");
    }
    lab::run(peertally(&lab)?.arg("check-config").arg(&file))?;
    // A second time, nothing is overwritten.
    let again = peertally(&lab)?.args(["init", "--output"]).arg(&file).output()?;
    ensure!(again.status.code() == Some(64), "{again:?}");
    lab.close()
}
