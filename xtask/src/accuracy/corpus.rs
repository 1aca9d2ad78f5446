//! The examined captures, and the ground truth of their flows.
//!
//! The corpus lies next to the repository, in `shared/corpus`: `MANIFEST.tsv` lists captures, `FLOWS.tsv` the flows of
//! its P2P set with reference signatures. Captures of the lab are named `CLIENT-MODE-IPVERSION.pcap`; in their
//! namespaces nothing runs but that client, so every flow that is no naming or discovery is P2P of its protocol.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use monitor_common::abi::protocol::Protocol;
use peertally_lab::protocol_of;

use super::flow::{Key, Truth};

/// Which part of the report a capture belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// P2P as it was captured or built.
    Plain,
    /// A mix of the plain ones, in this framing.
    Reframed(String),
    /// No P2P file sharing.
    Negative,
    /// The lab's own.
    Live,
}

/// A capture and the truth about it.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) set: Set,
    flows: Source,
}

/// Truth by flow, with whether a reference signature shows it.
type Listed = BTreeMap<Key, (Truth, bool)>;

#[derive(Clone, Debug)]
enum Source {
    /// By flow; others are no P2P.
    Listed(Listed),
    /// No flow is P2P.
    Negative,
    /// Every flow but naming and discovery speaks one of these.
    Client(Vec<String>),
}

impl Capture {
    /// Ground truth of a flow, and whether a reference signature shows it.
    pub(super) fn truth(&self, key: &Key) -> (Truth, bool) {
        match &self.flows {
            Source::Listed(flows) => flows.get(key).cloned().unwrap_or((Truth::Other, false)),
            Source::Negative => (Truth::Other, false),
            Source::Client(_) if key.is_background() => (Truth::Other, false),
            Source::Client(protocols) => (Truth::Peer(protocols.clone()), false),
        }
    }
}

/// Protocols by the client or set of clients that a capture of the lab is named after.
const CLIENTS: [(&[&str], &[Protocol]); 7] = [
    (
        &["transmission", "aria2", "libtorrent", "qbittorrent", "rtorrent", "ctorrent", "bittorrent"],
        &[Protocol::BitTorrent],
    ),
    (&["amule", "edonkey"], &[Protocol::EDonkey, Protocol::Kademlia]),
    (&["ncdc", "uhub", "eiskaltdcpp", "microdc2", "directconnect", "dc"], &[Protocol::DirectConnect]),
    (&["soulseek", "nicotine", "aioslsk", "slsk"], &[Protocol::Soulseek]),
    (&["gtkgnutella", "gnutella"], &[Protocol::Gnutella, Protocol::Gnutella2]),
    (&["webtorrent"], &[Protocol::WebTorrent, Protocol::BitTorrent]),
    (&["libp2p"], &[Protocol::LibP2p]),
];

/// The captures of the corpus in `root`, in its manifest's order.
///
/// # Errors
/// When a table cannot be read or says something unknown.
pub(super) fn corpus(root: &Path) -> Result<Vec<Capture>> {
    let manifest = table(&root.join("MANIFEST.tsv"))?;
    let mut listed = listed(root, &manifest)?;
    let mut captures = Vec::new();
    for row in &manifest {
        let [set, name] = [0, 1].map(|column| row.get(column).cloned().unwrap_or_default());
        let path = root.join(&set).join(&name);
        if !path.is_file() {
            bail!("{} is in the manifest and not there", path.display());
        }
        let flows = listed.remove(&name).unwrap_or_default();
        let (set, flows) = match (set.as_str(), framing(&name)) {
            ("negative", _) => (Set::Negative, Source::Negative),
            ("p2p", None) => (Set::Plain, Source::Listed(flows)),
            ("p2p", Some(framing)) => (Set::Reframed(framing), Source::Listed(flows)),
            (other, _) => bail!("{name}: unknown set {other}"),
        };
        captures.push(Capture { path, name, set, flows });
    }
    Ok(captures)
}

/// How a capture frames the mix of the others; `None` for a capture of its own.
fn framing(name: &str) -> Option<String> {
    let framed = name.strip_prefix("gen_encap_").and_then(|name| name.strip_suffix("_open.pcap"));
    if name == "gen_mix_open.pcap" { Some("as it was".to_owned()) } else { framed.map(str::to_owned) }
}

/// The truth of `FLOWS.tsv`, by capture and flow.
fn listed(root: &Path, manifest: &[Vec<String>]) -> Result<BTreeMap<String, Listed>> {
    let rows = table(&root.join("FLOWS.tsv"))?;
    let label = |name: &str| {
        manifest.iter().find(|row| row.get(1).is_some_and(|file| file == name)).and_then(|row| row.get(10))
    };
    let mut flows: BTreeMap<String, Listed> = BTreeMap::new();
    let mut hidden: BTreeMap<Key, String> = BTreeMap::new();
    for row in &rows {
        let (name, key) = (row.first().context("a row without a file")?.clone(), key(row)?);
        let signatures: Vec<&str> =
            row.get(11).map_or("", String::as_str).split(',').filter(|name| !name.is_empty()).collect();
        let mut protocols = Vec::new();
        for signature in &signatures {
            let protocol =
                protocol_of(signature).with_context(|| format!("unknown reference signature {signature}"))?;
            if !protocols.iter().any(|known| known == protocol) {
                protocols.push(protocol.to_owned());
            }
        }
        // A flow without a signature is P2P by where it was captured: then its client's protocol is the truth.
        let peer = row.get(8).is_some_and(|truth| truth == "p2p");
        if peer && protocols.is_empty() {
            let protocol = label(&name).and_then(|label| protocol_of_label(label));
            let protocol = protocol.map(str::to_owned).or_else(|| hidden.get(&key).cloned());
            protocols
                .push(protocol.with_context(|| format!("{name}: nothing says which protocol {} speaks", key.ports()))?);
        }
        if peer && signatures.is_empty() {
            hidden.insert(key.clone(), protocols[0].clone());
        }
        let truth = if protocols.is_empty() { Truth::Other } else { Truth::Peer(protocols) };
        flows.entry(name).or_default().insert(key, (truth, !signatures.is_empty()));
    }
    Ok(flows)
}

/// The protocol in a label of the manifest, `bittorrent/mse v4+v6`; `None` for a mix.
fn protocol_of_label(label: &str) -> Option<&'static str> {
    let web_torrent = Protocol::WebTorrent.label();
    if label.contains(web_torrent) {
        return Some(web_torrent);
    }
    match label.split('/').next().unwrap_or_default() {
        "emule" => Some(Protocol::EDonkey.label()),
        "kad" => Some(Protocol::Kademlia.label()),
        word => {
            let classified = Protocol::ALL.iter().filter(|protocol| protocol.class().is_some());
            classified.map(|protocol| protocol.label()).find(|name| *name == word)
        }
    }
}

fn key(row: &[String]) -> Result<Key> {
    let field = |column: usize| row.get(column).map_or("", String::as_str);
    let end = |column: usize| -> Result<_> {
        let address = field(column).parse().with_context(|| format!("no address in {row:?}"))?;
        Ok((address, field(column + 1).parse().with_context(|| format!("no port in {row:?}"))?))
    };
    Ok(Key::new(field(1), end(2)?, end(4)?))
}

/// The captures in a folder of the lab.
///
/// # Errors
/// When the folder cannot be read, holds none, or a name begins with no known client.
pub(super) fn live(folder: &Path) -> Result<Vec<Capture>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng"));
    paths.sort();
    if paths.is_empty() {
        bail!("{} holds no captures: `cargo xtask lab --capture DIR` makes some", folder.display());
    }
    let capture = |path: PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let client = name.split(['-', '.']).next().unwrap_or_default().to_owned();
        let protocols = CLIENTS.iter().find(|(clients, _)| clients.contains(&client.as_str()));
        let (_, protocols) = protocols.with_context(|| format!("{name}: no client is called {client:?}"))?;
        let flows = Source::Client(protocols.iter().map(|protocol| protocol.label().to_owned()).collect());
        Ok(Capture { path, name, set: Set::Live, flows })
    };
    paths.into_iter().map(capture).collect()
}

/// The lines of a table without its head, split at tabs.
fn table(path: &Path) -> Result<Vec<Vec<String>>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

#[cfg(test)]
mod tests {
    use peertally_lab::SIGNATURES;

    use super::*;

    #[test]
    fn labels_name_the_protocol_of_hidden_flows() {
        assert_eq!(protocol_of_label("bittorrent/mse v4+v6,http-tracker"), Some("bittorrent"));
        assert_eq!(protocol_of_label("bittorrent/webtorrent ws tracker + WebRTC"), Some("webtorrent"));
        assert_eq!(protocol_of_label("emule/obfuscated tcp,edonkey/server"), Some("edonkey"));
        assert_eq!(protocol_of_label("mix re-framed: vlan"), None);
    }

    #[test]
    fn reference_signatures_name_known_protocols() {
        for (signature, label) in SIGNATURES {
            assert!(Protocol::ALL.iter().any(|protocol| protocol.label() == label), "{signature}: {label}");
        }
    }

    #[test]
    fn lab_captures_are_named_after_their_client() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(live(folder.path()).is_err(), "an empty folder proves nothing");
        fs::write(folder.path().join("transmission-plain-ipv4.pcap"), b"").expect("written");
        let captures = live(folder.path()).expect("one capture");
        let peer =
            Key::new("tcp", ("192.0.2.1".parse().expect("address"), 1), ("192.0.2.2".parse().expect("address"), 2));
        assert_eq!(captures[0].truth(&peer).0, Truth::Peer(vec!["bittorrent".to_owned()]));
        fs::write(folder.path().join("unknown-plain-ipv4.pcap"), b"").expect("written");
        assert!(live(folder.path()).is_err());
    }
}
