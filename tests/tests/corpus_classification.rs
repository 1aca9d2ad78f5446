//! The classifier against the captures next to the repository: each flow with a reference signature is found under its
//! protocol, no flow of the negative set is labelled, and re-framed captures give the verdicts of the plain one.
//!
//! Runs on the host engine, so it needs no rights. Without the captures it says so and checks nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use monitor_common::abi::protocol::{Protocol, ProtocolClass};
use peertally::verbs::{
    Format,
    replay::{
        args::{EngineKind, ReplayArgs},
        collect,
        report::FlowRow,
    },
};
use peertally_lab::protocol_of;

/// Whether a flow of the negative set may have a label: its class is neither file sharing nor video.
fn is_no_error(label: &str) -> bool {
    let protocol = Protocol::ALL.iter().find(|protocol| protocol.label() == label);
    let class = protocol.and_then(|protocol| protocol.class());
    !matches!(class, Some(ProtocolClass::FileSharing | ProtocolClass::Video))
}

/// A flow's ends without a direction.
type Ends = BTreeSet<(IpAddr, u16)>;

/// The folder of captures; `None`, loudly, when it is not there.
fn corpus() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if root.join("FLOWS.tsv").is_file() {
        return Some(root);
    }
    println!("SKIPPED: no captures in {}", root.display());
    None
}

/// The flows of one capture, as the host engine labels them.
fn flows(capture: &Path) -> Vec<FlowRow> {
    let args = ReplayArgs {
        one_way: false,
        subscribers: Vec::new(),
        tunnel_endpoints: Vec::new(),
        engine: Some(EngineKind::Host),
        flows: true,
        format: Format::Json,
        captures: vec![capture.to_path_buf()],
    };
    let (report, _damaged) = collect(&args).unwrap_or_else(|error| panic!("{}: {error}", capture.display()));
    report.flows.expect("flows were asked for")
}

fn ends(a: (IpAddr, u16), b: (IpAddr, u16)) -> Ends {
    BTreeSet::from([a, b])
}

/// Whether the engine gave the flow a protocol.
fn labelled(flow: &FlowRow) -> bool {
    flow.protocol != "unclassified" && flow.protocol != "fragment"
}

/// Labels by transport and ends; a port pair that is used twice has both labels.
fn labels(capture: &Path) -> BTreeMap<(String, Ends), BTreeSet<String>> {
    let mut labels: BTreeMap<(String, Ends), BTreeSet<String>> = BTreeMap::new();
    for flow in flows(capture) {
        let key = (flow.l4.to_string(), ends((flow.a, flow.a_port), (flow.b, flow.b_port)));
        let of_flow = labels.entry(key).or_default();
        if labelled(&flow) {
            of_flow.insert(flow.protocol.to_string());
        }
    }
    labels
}

/// The captures in one of the corpus' folders.
fn captures(folder: &Path) -> Vec<PathBuf> {
    let mut captures: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension != "tsv"))
        .collect();
    captures.sort();
    captures
}

/// The lines of a table without its head, split at tabs.
fn table(path: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// The protocol that a reference signature stands for.
fn protocol(signature: &str) -> &'static str {
    protocol_of(signature).unwrap_or_else(|| panic!("unknown signature {signature}"))
}

#[test]
fn every_reference_signature_is_found() {
    let Some(root) = corpus() else { return };
    let mut by_file: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for row in table(&root.join("FLOWS.tsv")) {
        by_file.entry(row[0].clone()).or_default().push(row);
    }
    let (mut wanted, mut wrong) = (0, Vec::new());
    for (file, rows) in by_file {
        let found = labels(&root.join("p2p").join(&file));
        for row in rows {
            let end = |at: usize| (row[at].parse().expect("an address"), row[at + 1].parse().expect("a port"));
            let label = found.get(&(row[1].clone(), ends(end(2), end(4)))).cloned().unwrap_or_default();
            let signatures: Vec<&str> =
                row.get(11).map_or("", String::as_str).split(',').filter(|name| !name.is_empty()).collect();
            wanted += usize::from(!signatures.is_empty());
            let right = match signatures.as_slice() {
                [] => label.is_empty() || row[7] == "p2p",
                names => names.iter().any(|name| label.contains(protocol(name))),
            };
            if !right {
                wrong.push(format!("{row:?}: {label:?}"));
            }
        }
    }
    println!("{} of {wanted} flows with a reference signature found", wanted - wrong.len());
    assert!(wanted > 700, "the table of flows was read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_negative_flow_is_labelled() {
    let Some(root) = corpus() else { return };
    let (mut counted, mut wrong) = (0, Vec::new());
    for capture in captures(&root.join("negative")) {
        for flow in flows(&capture) {
            counted += 1;
            if labelled(&flow) && !is_no_error(flow.protocol) {
                wrong.push(format!("{}: {flow:?}", capture.display()));
            }
        }
    }
    println!("{} of {counted} negative flows labelled", wrong.len());
    assert!(counted > 1000, "the captures were read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_synthetic_case_has_its_label() {
    let Some(root) = corpus() else { return };
    let mut wrong = Vec::new();
    for folder in ["p2p", "negative"] {
        for capture in captures(&root.join(folder)) {
            let expected = capture.with_extension("expected.tsv");
            if !expected.is_file() {
                continue;
            }
            let found = flows(&capture);
            for row in table(&expected) {
                let ports = BTreeSet::from([row[1].parse::<u16>().expect("a port"), row[2].parse().expect("a port")]);
                let flow =
                    found.iter().find(|flow| flow.l4 == row[0] && BTreeSet::from([flow.a_port, flow.b_port]) == ports);
                let flow = flow.unwrap_or_else(|| panic!("{row:?} is not in {}", capture.display()));
                // The label starts with the protocol's name; Kad and the UDP side of eMule have names of their own
                // there.
                let name = row[3].split(['/', ' ']).next().unwrap_or_default();
                let names: &[&str] = match name {
                    "emule" => &[Protocol::EDonkey.label()],
                    "kad" | "kad2" => &[Protocol::Kademlia.label()],
                    _ => &[name],
                };
                let right = if row[4] == "1" { names.contains(&flow.protocol) } else { !labelled(flow) };
                if !right {
                    wrong.push(format!("{row:?}: {flow:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn framing_changes_no_verdict() {
    let Some(root) = corpus() else { return };
    let plain = labels(&root.join("p2p/gen_mix_open.pcap"));
    let mut compared = 0;
    for capture in captures(&root.join("p2p")) {
        if !capture.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gen_encap_")) {
            continue;
        }
        for (key, label) in labels(&capture) {
            // Flows of other protocols than TCP and UDP are the framing itself: fragments, tunnels.
            let Some(expected) = plain.get(&key) else { continue };
            assert_eq!(&label, expected, "{} {key:?}", capture.display());
            compared += usize::from(!label.is_empty());
        }
    }
    assert!(compared > 300, "only {compared} flows of re-framed captures were compared");
}
