//! What the kernel knows of our program: pinned attachments with their devices, and hooks that run a program of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use peertally_core::{
    reconcile::{Hook, Link, Pinned},
    snapshot::RunningProgram,
};

use super::{netlink::Rtnetlink, pins, records};
use crate::object::PROGRAM;

/// The link at a pin and the id of its program; `None` if there is no pin.
///
/// # Errors
/// The pin cannot be read, which says nothing of what it holds.
pub(super) fn pinned_link(pin: &Path) -> io::Result<Option<(FdLink, u32)>> {
    let link = match PinnedLink::from_pin(pin) {
        Ok(link) => FdLink::from(link),
        Err(error) => {
            let error = cause(error);
            return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
        }
    };
    let program = link.info().map_err(cause)?.program_id();
    Ok(Some((link, program)))
}

fn cause(error: LinkError) -> io::Error {
    match error {
        LinkError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// Every attachment that is pinned in this version's folder, with its device.
///
/// # Errors
/// A pin or `/proc` cannot be read.
pub(super) fn pinned() -> io::Result<Vec<Pinned>> {
    let mut links = Vec::new();
    for (pin, path) in pins::links()? {
        if let Some((link, program)) = pinned_link(&path)? {
            links.push((pin, program, link));
        }
    }
    let devices = if links.is_empty() { BTreeMap::new() } else { devices()? };
    let folder = pins::folder();
    let mut found = Vec::new();
    for (pin, program, link) in &links {
        let id = link.info().map_err(cause)?.id();
        let name = records::read(&folder, &pins::attached(*pin))?.map(Arc::from);
        found.push(Pinned { pin: *pin, program: *program, device: devices.get(&id).copied(), name });
    }
    Ok(found)
}

/// Index of the device of each XDP link that this process has open, by link id (`bpf_xdp_link_show_fdinfo`,
/// net/core/dev.c). A link without a device is left out.
fn devices() -> io::Result<BTreeMap<u32, u32>> {
    let mut devices = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // Descriptors of other threads come and go.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some((link, index)) = device_of(&text) {
            devices.insert(link, index);
        }
    }
    Ok(devices)
}

/// Link id and device index in the description of a descriptor.
fn device_of(text: &str) -> Option<(u32, u32)> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
    let (link, index) = (value("link_id:")?, value("ifindex:")?);
    (index != 0).then_some((link, index))
}

/// Name of a loaded program in words, if the kernel tells.
pub(super) fn program_name(program: u32) -> Option<String> {
    let mut programs = aya::programs::loaded_programs().filter_map(Result::ok);
    programs.find(|info| info.id() == program)?.name_as_str().map(str::to_owned)
}

/// Id of the link that holds a program on an XDP hook, if one does.
pub(super) fn link_of_program(program: u32) -> Option<u32> {
    let mut links = aya::programs::loaded_links().filter_map(Result::ok);
    links.find(|link| link.program_id() == program).map(|link| link.id())
}

/// Hooks of this network namespace that run a program of Peertally, whoever attached it, but for those with an index in
/// `known`. Interfaces are listed only if a program is loaded that is not in `programs`.
///
/// # Errors
/// The kernel cannot be asked.
pub(super) fn running(netlink: &mut Rtnetlink, known: &[u32], programs: &[u32]) -> io::Result<Vec<RunningProgram>> {
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let ours: BTreeSet<u32> = loaded.filter(|info| info.name_as_str() == Some(PROGRAM)).map(|info| info.id()).collect();
    if ours.iter().all(|id| programs.contains(id)) {
        return Ok(Vec::new());
    }
    let at = |link: Link| {
        let Hook { program: Some(program), mode } = link.hook else { return None };
        (ours.contains(&program) && !known.contains(&link.index)).then(|| RunningProgram {
            interface: link.name,
            mode: mode.label(),
            program,
            pins: pins::schema_of_link(link.index).into(),
        })
    };
    Ok(netlink.all()?.into_iter().filter_map(at).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_a_link_is_read_and_one_without_is_none() {
        let text = |index: u32| {
            format!("pos:\t0\nflags:\t02000002\nlink_type:\txdp\nlink_id:\t12\nprog_id:\t34\nifindex:\t{index}\n")
        };
        assert_eq!(device_of(&text(5)), Some((12, 5)));
        assert_eq!(device_of(&text(0)), None);
        assert_eq!(device_of("pos:\t0\nflags:\t02\n"), None);
    }
}
