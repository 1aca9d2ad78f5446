//! What there is before anything is attached: links and their hooks, the BPF file system, pinned tables. Only looks.

use std::{fs, io, path::Path};

use peertally_core::reconcile::Link;

use super::{namespaces, netlink::Rtnetlink, pins, records};

/// The BPF file system at its usual place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfFileSystem {
    /// None is mounted.
    Missing,
    /// It ends with this mount namespace.
    Private,
    /// It stays.
    Mounted,
}

/// Pinned tables of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedTables {
    /// Version of their layout, such as `v11`.
    pub version: String,
    /// Whether this build can take them over.
    pub is_own_version: bool,
    /// Whether all of them are there: a start that was killed leaves some.
    pub complete: bool,
    /// Network namespace whose interfaces they count, in words, if it is another one.
    pub other_namespace: Option<String>,
}

/// A link, with what tells which device it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The link, and the program on its XDP hook.
    pub link: Link,
    /// Kind in the kernel's word, such as `vlan` or `bond`; empty for a network card.
    pub kind: String,
    /// Maximum transmission unit, in bytes.
    pub mtu: u32,
    /// Index of the bond or bridge that it is a part of.
    pub master: Option<u32>,
    /// Index of the device that it lies on. The other end of a veth pair is none.
    pub parent: Option<u32>,
    /// Whether it is up, or does not tell.
    pub up: bool,
}

impl Device {
    /// A link of which nothing else is known.
    #[must_use]
    pub fn of(link: Link) -> Self {
        Self { link, kind: String::new(), mtu: 0, master: None, parent: None, up: true }
    }
}

/// Links of this network namespace.
///
/// # Errors
/// The kernel cannot be asked.
pub fn devices() -> io::Result<Vec<Device>> {
    let mut devices = Rtnetlink::open()?.devices()?;
    // The other end may be in another namespace, where the index is that of another device.
    devices.iter_mut().filter(|device| device.kind == "veth").for_each(|device| device.parent = None);
    Ok(devices)
}

/// Name of a loaded program, for whoever may ask.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let mut loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    loaded.find(|info| info.id() == id)?.name_as_str().map(ToOwned::to_owned)
}

/// The BPF file system in which pins would be kept.
#[must_use]
pub fn bpf_file_system() -> BpfFileSystem {
    if !pins::is_bpf_file_system(Path::new(pins::BPF_FILE_SYSTEM)) {
        BpfFileSystem::Missing
    } else if namespaces::pins_are_private() {
        BpfFileSystem::Private
    } else {
        BpfFileSystem::Mounted
    }
}

/// Pinned tables of all versions.
///
/// # Errors
/// The folder of the pins cannot be read.
pub fn pinned() -> io::Result<Vec<PinnedTables>> {
    let own = namespaces::network()?;
    let folders = match fs::read_dir(pins::base()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        folders => folders?,
    };
    let mut found = Vec::new();
    for folder in folders {
        let path = folder?.path();
        let namespace = records::complete(&path)?;
        // Builds before version 11 kept no record.
        let has_links = fs::read_dir(&path)?.filter_map(Result::ok).any(|pin| pins::is_link(&pin.path()));
        found.push(PinnedTables {
            version: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            is_own_version: path == pins::folder(),
            complete: namespace.is_some() || has_links,
            other_namespace: namespace
                .filter(|namespace| *namespace != own)
                .map(|namespace| namespaces::describe_network(&namespace)),
        });
    }
    found.sort_by(|a, b| a.version.cmp(&b.version));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_device() {
        let devices = devices().expect("asks the kernel");
        let loopback = devices.iter().find(|device| device.link.index == 1).expect("it is there");
        assert_eq!((&*loopback.link.name, &*loopback.kind, loopback.master), ("lo", "", None));
        assert!(loopback.mtu >= 1500, "{loopback:?}");
    }
}
