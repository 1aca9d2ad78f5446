//! Rooms: the order of crates and of their modules, and the calls that a pure crate must not make. The reasons are in
//! `docs/decisions/0004-workspace.md`.

use std::{
    collections::BTreeSet,
    fs, iter,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

/// Rules of one crate.
struct Rules {
    /// Folder, from the repository's root.
    folder: &'static str,
    /// Crates of this repository that it may depend on.
    ours: &'static [&'static str],
    /// Crates of others that it must not depend on: a `*` at the end stands for any rest.
    never: &'static [&'static str],
}

/// Dependencies of the agent alone: a runtime, servers, clients, a command line, formats of files.
const AGENT_ONLY: [&str; 10] =
    ["tokio*", "axum", "reqwest", "rustls", "clap", "prometheus", "toml", "tracing-subscriber", "strsim", "futures*"];

const CRATES: &[Rules] = &[
    Rules { folder: "monitor-common", ours: &[], never: &["*"] },
    Rules {
        folder: "monitor-ebpf",
        ours: &["monitor-common"],
        never: &["tokio*", "aya", "aya-obj", "aya-log", "clap", "serde*"],
    },
    Rules { folder: "crates/capture", ours: &[], never: &["tokio*", "aya*", "clap", "serde*", "rustix"] },
    Rules {
        folder: "crates/core",
        ours: &["monitor-common"],
        never: &["aya*", "netlink*", "memmap2", "rustix", "libc", "getrandom", "fastrand", "tracing", "log", "flate2"],
    },
    Rules { folder: "crates/datapath", ours: &["monitor-common", "peertally-core"], never: &["humantime", "flate2"] },
    Rules {
        folder: "crates/store",
        ours: &["monitor-common", "peertally-core"],
        never: &["aya*", "netlink*", "memmap2", "libc", "serde*", "flate2"],
    },
    Rules {
        folder: "monitor",
        ours: &["monitor-common", "peertally-capture", "peertally-core", "peertally-datapath", "peertally-store"],
        never: &["aya*", "netlink*", "memmap2", "libc"],
    },
    Rules { folder: "lab", ours: &[], never: &["aya*", "tokio*"] },
    Rules { folder: "xtask", ours: &["monitor-common", "peertally-lab"], never: &["aya*", "tokio*"] },
    Rules {
        folder: "tests",
        ours: &[
            "monitor",
            "monitor-common",
            "peertally-capture",
            "peertally-core",
            "peertally-datapath",
            "peertally-lab",
            "peertally-store",
        ],
        never: &[],
    },
    Rules { folder: "fuzz", ours: &["monitor-common", "peertally-capture", "peertally-datapath"], never: &["tokio*"] },
];

/// Crates without a clock, files, a network or an environment.
const PURE: [&str; 1] = ["crates/core"];

/// Calls that the lint of a pure crate refuses, by their paths.
const IMPURE_CALLS: [&str; 12] = [
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::fs::read",
    "std::fs::read_to_string",
    "std::fs::write",
    "std::fs::File",
    "std::fs::OpenOptions",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net::UnixStream",
    "std::process::Command::new",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of the dependencies in one table of a manifest, those for single targets included.
fn dependencies(manifest: &Table, table: &str) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    iter::once(manifest)
        .chain(targets.filter_map(Value::as_table))
        .filter_map(|within| within.get(table)?.as_table())
        .flat_map(|found| found.keys().cloned())
        .collect()
}

fn matches(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |start| name.starts_with(start))
}

/// Folders of the workspace's members, and those of the fuzzers, which are a workspace of their own.
fn folders() -> BTreeSet<String> {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"].as_array().expect("a list of members");
    let mut folders: BTreeSet<String> = members.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    folders.insert("fuzz".to_owned());
    folders
}

#[test]
fn every_crate_has_rules() {
    let rules: BTreeSet<String> = CRATES.iter().map(|rules| rules.folder.to_owned()).collect();
    assert_eq!(rules, folders(), "give each crate a row in this test and in docs/decisions/0004-workspace.md");
}

#[test]
fn crates_depend_only_downwards() {
    let ours: BTreeSet<String> = folders()
        .iter()
        .map(|folder| manifest(folder)["package"]["name"].as_str().expect("a name").to_owned())
        .collect();
    let mut problems = Vec::new();
    for rules in CRATES {
        let manifest = manifest(rules.folder);
        let mut never: Vec<&str> = rules.never.to_vec();
        if ["crates/core", "crates/datapath", "crates/capture", "crates/store"].contains(&rules.folder) {
            never.extend(AGENT_ONLY);
        }
        for table in ["dependencies", "build-dependencies"] {
            for name in dependencies(&manifest, table) {
                if ours.contains(&name) {
                    if !rules.ours.contains(&name.as_str()) {
                        problems.push(format!("{} must not depend on {name}", rules.folder));
                    }
                } else if let Some(pattern) = never.iter().find(|pattern| matches(&name, pattern)) {
                    problems.push(format!("{} must not depend on {name} (`{pattern}`)", rules.folder));
                }
            }
        }
        // Tests may use other crates of others, but the order of our own crates holds for them, too.
        for name in dependencies(&manifest, "dev-dependencies") {
            if ours.contains(&name) && !rules.ours.contains(&name.as_str()) {
                problems.push(format!("tests of {} must not depend on {name}", rules.folder));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn pure_crates_forbid_unsafe_code_and_the_outside_world() {
    for folder in PURE.iter().chain(&["crates/capture", "crates/store"]) {
        let lib = fs::read_to_string(root().join(folder).join("src/lib.rs")).expect("a library");
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{folder}/src/lib.rs forbids no unsafe code");
    }
    for folder in PURE {
        let lints: Table = fs::read_to_string(root().join(folder).join("clippy.toml"))
            .unwrap_or_else(|error| panic!("{folder}/clippy.toml: {error}"))
            .parse()
            .expect("TOML");
        let paths: Vec<&str> = ["disallowed-methods", "disallowed-types"]
            .iter()
            .filter_map(|list| lints.get(*list)?.as_array())
            .flatten()
            .filter_map(|entry| entry.get("path")?.as_str())
            .collect();
        for call in IMPURE_CALLS {
            assert!(paths.contains(&call), "{folder}/clippy.toml allows {call}");
        }
        // A crate that turns the lint off would pass the list above.
        let manifest = manifest(folder);
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{folder} takes the workspace's lints");
    }
}

/// Rooms of each crate that has several, from the ground up: each may use those before it only.
const ROOMS: [(&str, &[&str]); 5] = [
    ("monitor-common/src", &["bpf", "abi", "parse", "dissect", "tables", "engine"]),
    (
        "crates/core/src",
        &[
            "words",
            "vlan",
            "interface",
            "exit",
            "pool",
            "reconcile",
            "content_list",
            "subscriber",
            "booked",
            "snapshot",
            "testing",
            "policy",
            "analysis",
        ],
    ),
    (
        "crates/datapath/src",
        &[
            "error",
            "owned",
            "generic_netlink",
            "offloads",
            "xdp_features",
            "table_sizes",
            "mapped",
            "view",
            "ageing",
            "released_flows",
            "replaced",
            "mapped_tables",
            "interface_tables",
            "object",
            "run_cost",
            "table_memory",
            "host",
            "test_run",
            "attached",
        ],
    ),
    (
        "crates/store/src",
        &[
            "failure",
            "folder",
            "clock",
            "migrations",
            "events",
            "verdict_records",
            "writer",
            "store",
            "booked",
            "history",
        ],
    ),
    ("monitor/src", &["skip", "generated", "deliver", "config", "agent", "export", "listen", "verbs", "cli"]),
];
/// Parts of the engine, each of which uses only those before it.
const ENGINE: [&str; 23] = [
    "flow_entry",
    "budget",
    "crowding",
    "server_flow",
    "spoofing",
    "shedding",
    "tally_slots",
    "subscribers",
    "account",
    "release",
    "end_idle",
    "watchlist",
    "records",
    "peer_keys",
    "known_peers",
    "charge",
    "reassembly",
    "source_requests",
    "associate",
    "learn",
    "flow_table",
    "commit",
    "stages",
];

/// The code of a file: no comments, and no tests, which stand last.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let end = code
        .windows(2)
        .position(|lines| lines[0] == "#[cfg(test)]" && lines[1].starts_with("mod ") && lines[1].ends_with('{'));
    code[..end.unwrap_or(code.len())].join("\n")
}

/// Names right below `root` (`crate` or `super`) in the paths of a file: `a` and `b` of `root::a::c` and
/// `root::{a::c, b}`.
fn names_below(root: &str, code: &str) -> BTreeSet<String> {
    let start =
        |text: &str| text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().map(str::to_owned);
    let mut names = BTreeSet::new();
    for (_, path) in code.match_indices(&format!("{root}::")).map(|(at, found)| code.split_at(at + found.len())) {
        let Some(list) = path.strip_prefix('{') else {
            names.extend(start(path));
            continue;
        };
        let (mut depth, mut first) = (0, true);
        for (at, letter) in list.char_indices() {
            if first && !letter.is_whitespace() {
                names.extend(start(&list[at..]));
                first = false;
            }
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => first = depth == 0,
                _ => {}
            }
        }
    }
    names.remove("");
    names
}

/// Files of a room but for its tests: the one that has its name, and those in its folder.
fn files(source: &str, room: &str) -> Vec<PathBuf> {
    let source = root().join(source);
    let own = source.join(format!("{room}.rs"));
    let mut files: Vec<PathBuf> = own.is_file().then_some(own).into_iter().collect();
    let mut folders = vec![source.join(room)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.is_file() && !path.ends_with("tests.rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn names_are_found_in_paths_and_lists() {
    let code = "use crate::{\n    abi::{key::Address, tally},\n    bpf,\n};\nfn a() { crate::tables::age() }";
    assert_eq!(names_below("crate", code).into_iter().collect::<Vec<_>>(), ["abi", "bpf", "tables"]);
}

#[test]
fn rooms_use_only_those_below() {
    let mut problems = Vec::new();
    for (source, rooms) in ROOMS {
        let library = code(&root().join(source).join("lib.rs"));
        let modules = library.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
        let declared: BTreeSet<_> = modules.filter_map(|module| module.strip_suffix(';')).collect();
        assert_eq!(declared, BTreeSet::from_iter(rooms.iter().copied()), "{source}: give each room its place");
        for (rank, room) in rooms.iter().enumerate() {
            let files = files(source, room);
            assert!(!files.is_empty(), "{source}: {room} has no files");
            for file in files {
                let code = code(&file);
                let mut used = names_below("crate", &code);
                if file.ends_with(Path::new(source).join(format!("{room}.rs"))) {
                    used.extend(names_below("super", &code));
                }
                // Capitals: types that the library's root gives on.
                used.retain(|name| !name.starts_with(char::is_uppercase));
                for used in used.iter().filter(|used| !rooms[..=rank].contains(&used.as_str())) {
                    problems.push(format!("{}: `{room}` must not use `{used}`; order: {rooms:?}", file.display()));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn no_part_of_the_engine_uses_a_later_one() {
    let folder = root().join("monitor-common/src/engine");
    let found: BTreeSet<_> = files("monitor-common/src", "engine")
        .iter()
        .filter(|file| file.parent() == Some(&folder))
        .filter_map(|file| file.file_stem())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, ENGINE.iter().map(|part| (*part).to_owned()).collect(), "give each part its place in the order");
    for (rank, part) in ENGINE.iter().enumerate() {
        let code = code(&folder.join(format!("{part}.rs")));
        let used: BTreeSet<_> =
            names_below("super", &code).into_iter().chain(names_below("crate::engine", &code)).collect();
        for used in used {
            assert!(
                ENGINE[..rank].contains(&used.as_str()),
                "`engine::{part}` must not use `{used}`; the order is {ENGINE:?}"
            );
        }
    }
}
