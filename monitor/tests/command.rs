//! The command as people run it: exit codes and messages of mistakes, without rights and without the kernel.

use std::{fs, process::Command};

#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn peertally(arguments: &[&str]) -> Said {
    peertally_with(arguments, &[])
}

fn peertally_with(arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peertally"));
    let environment = environment.iter().copied();
    let output = command.args(arguments).env_clear().envs(environment).output().expect("the command starts");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_valid_configuration_says_what_it_would_do() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("p.toml");
    let text = "interfaces = [{ name = \"eth0\" }]\n[[policies]]\nname = \"heavy\"\nthreshold = \"1 GiB\"\nwindow = \"1h\"\n\
                hooks = [\"tell\"]\n[[hooks]]\nname = \"tell\"\nwebhook = \"https://abuse.example.net/e?token=secret\"\n";
    fs::write(&file, text).expect("written");
    let said = peertally(&["check-config", file.to_str().expect("UTF-8")]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in [
        "valid",
        "eth0 (access)",
        "heavy: 1073741824 bytes",
        "within 1h",
        "-> tell",
        "POST https://abuse.example.net/e,",
    ] {
        assert!(said.out.contains(part), "no {part} in {}", said.out);
    }
    assert!(!said.out.contains("secret"), "{}", said.out);
    assert!(said.out.contains("10.0.0.0/8 in blocks of /32, "), "{}", said.out);
    let by_environment = peertally_with(&["check-config"], &[("PEERTALLY_CONFIG", file.to_str().expect("UTF-8"))]);
    assert_eq!(by_environment, said);
}

#[test]
fn a_wrong_listen_address_shows_a_right_one() {
    let said = peertally(&["run", "--listen", "foo"]);
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("`foo` is not ADDRESS:PORT; write for example 127.0.0.1:9847"), "{}", said.err);
}

#[test]
fn the_shipped_example_is_valid() {
    let said = peertally(&["check-config", concat!(env!("CARGO_MANIFEST_DIR"), "/peertally.example.toml")]);
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn a_plan_names_tables_and_sums() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("p.toml");
    fs::write(&file, "[capacity]\nflows = 4194304\ntallies = 3000000\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let said = peertally(&["plan", "--config", file]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in
        ["FLOWS ", "TALLY_SLOTS ", "tables in the kernel ", "agent, if every tally moves ", "4194304 flows of 96 bytes"]
    {
        assert!(said.out.contains(part), "no {part} in {}", said.out);
    }
    for line in said.out.lines().filter(|line| ["WATCH_HITS ", "AYA_LOGS "].iter().any(|name| line.contains(name))) {
        assert!(line.ends_with("ring buffer"), "{line}");
    }
    let said = peertally(&["plan", "--config", file, "--format", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let tables = plan["tables"].as_array().expect("tables");
    let sum: u64 = tables.iter().filter_map(|table| table["bytes"].as_u64()).sum();
    assert_eq!(plan["kernel_bytes"].as_u64(), Some(sum));
    assert!(sum > 4_194_304 * 64 + 3_000_000 * 72, "{sum}");
    assert_eq!(peertally(&["plan", "--config", "/nonexistent"]).code, Some(64));
}

#[test]
fn a_plan_for_a_load_sizes_the_box() {
    let load =
        ["--packets-per-second", "17400000", "--new-flows-per-second", "350000", "--subscriber-count", "1000000"];
    let said = peertally(&[&["plan"], &load[..]].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in ["tables in the kernel ", "load: 17400000 packets/s", "WARNING: ", "capacity.flows        33554432 "] {
        assert!(said.out.contains(part), "no {part} in {}", said.out);
    }

    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("p.toml");
    fs::write(&file, "[capacity]\nflows = 33554432\ntallies = 3000001\n").expect("written");
    let config = ["plan", "--config", file.to_str().expect("UTF-8"), "--format", "json"];
    let said = peertally(&[&config, &load[..]].concat());
    let plan: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let sizing = &plan["sizing"];
    assert_eq!(sizing["flow_table"]["turnover"], "evicts_idle");
    assert_eq!(sizing["tally_table"]["suffices"], true);
    assert_eq!(sizing["cores"]["parts"][0]["per_second"], 16_000_000);
    // The recommended tables are the configured ones, but for the peer cache.
    let peers = 4_194_304 * 16 - 262_144 * 16;
    assert_eq!(sizing["kernel_bytes"].as_u64(), plan["kernel_bytes"].as_u64().map(|bytes| bytes + peers));
    let without: serde_json::Value = serde_json::from_str(&peertally(&config).out).expect("JSON");
    assert!(without.get("sizing").is_none());
}

#[test]
fn a_load_that_cannot_be_ends_with_64_and_says_what_to_do() {
    for (arguments, part) in [
        (&["--packets-per-second", "17.4M"][..], "`17.4M` is not a whole number up to 10000000000; write digits only"),
        (&["--new-flows-per-second", "-1"], "`-1` is not a whole number"),
        (&["--subscriber-count", "10000000001"], "is not a whole number up to 10000000000"),
        (&["--subscribers", "1000000"], "for a number of subscribers use --subscriber-count 1000000"),
        (&["--subscribers", "foo"], "write for example 10.0.0.0/8/32"),
        (&["--new-flows-per-second", "5", "--packets-per-second", "4"], "correct one of them"),
    ] {
        let said = peertally(&[&["plan"], arguments].concat());
        assert_eq!(said.code, Some(64), "{arguments:?}");
        assert!(said.err.contains(part) && said.out.is_empty(), "{}", said.err);
    }
}

#[test]
fn mistakes_end_with_64_and_name_the_line() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("p.toml");
    fs::write(&file, "\nlissten = \"127.0.0.1:1\"\n").expect("written");
    let said = peertally(&["check-config", file.to_str().expect("UTF-8")]);
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("p.toml:2") && said.err.contains("did you mean `listen`"), "{}", said.err);
    assert!(said.out.is_empty());

    let said = peertally(&["check-config", "/nonexistent/p.toml"]);
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("/nonexistent/p.toml"), "{}", said.err);

    for arguments in [&["no-such-command"][..], &[], &["--no-such-flag"]] {
        assert_eq!(peertally(arguments).code, Some(64), "{arguments:?}");
    }
}

#[test]
fn help_and_version_end_with_0() {
    for arguments in [&["--help"][..], &["--version"], &["check-config", "--help"], &["status", "--help"]] {
        let said = peertally(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}");
        assert!(!said.out.is_empty());
    }
}

#[test]
fn commands_that_are_not_built_do_not_exist() {
    let help = peertally(&["--help"]).out;
    for name in ["top", "subscribers", "cases", "notices"] {
        assert_eq!(peertally(&[name]).code, Some(64), "{name}");
        assert!(!help.lines().any(|line| line.trim_start().starts_with(name)), "{name} is in the help");
    }
}

#[test]
fn status_without_an_agent_says_what_to_do() {
    let said = peertally(&["status", "--socket", "/nonexistent/control.sock"]);
    assert_eq!(said.code, Some(69));
    assert!(said.err.contains("peertally run"), "{}", said.err);
}
