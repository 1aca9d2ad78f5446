//! Generic netlink: questions to a family of the kernel that has no number of its own
//! (Documentation/userspace-api/netlink/intro.rst). Needs no rights.

use std::io;

use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// Room for one answer: the names of some sixty features, four times.
const ANSWER_BYTES: usize = 64 * 1024;
/// Bytes of the headers of a message: `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER_BYTES: usize = 20;
/// `NLM_F_REQUEST` of include/uapi/linux/netlink.h.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR` of include/uapi/linux/netlink.h.
const ERROR: u16 = 2;
/// `NLA_F_NESTED` of include/uapi/linux/netlink.h.
pub(crate) const NESTED: u16 = 1 << 15;

/// The family of families, include/uapi/linux/genetlink.h.
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
}

/// A family that the kernel has.
pub(crate) struct Family {
    socket: Socket,
    number: u16,
}

impl Family {
    /// Looks a family up by its name.
    ///
    /// # Errors
    /// This kernel does not have it, or cannot be asked.
    pub(crate) fn find(name: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = attribute(control::FAMILY_NAME, &[name.as_bytes(), b"\0"].concat());
        let family = ask(&socket, control::FAMILY, control::GET_FAMILY, &name)?;
        let number = values(&family, control::FAMILY_ID).next().and_then(|value| value.try_into().ok());
        Ok(Self { socket, number: number.map(u16::from_ne_bytes).ok_or(io::ErrorKind::Unsupported)? })
    }

    /// Sends a request and returns the attributes of the answer.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(crate) fn ask(&self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        ask(&self.socket, self.number, command, attributes)
    }
}

/// An attribute as bytes.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The values of attributes of one kind.
pub(crate) fn values(attributes: &[u8], kind: u16) -> impl Iterator<Item = Vec<u8>> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .filter(move |attribute| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}

/// Sends a request and returns the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = (HEADER_BYTES + attributes.len()) as u32;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend([family, REQUEST].map(u16::to_ne_bytes).concat());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend_from_slice(attributes);
    socket.send(&request, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(invalid)?;
    if kind == ERROR {
        let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-code.ok_or_else(invalid)?));
    }
    answer.get(HEADER_BYTES..).map(<[u8]>::to_vec).ok_or_else(invalid)
}
