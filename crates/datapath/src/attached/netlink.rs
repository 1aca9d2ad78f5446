//! Reads an interface's XDP hook from the kernel (rtnetlink `RTM_GETLINK`, attribute `IFLA_XDP`). Needs no rights.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Room for one answer: link messages of devices with many attributes stay well below.
const ANSWER_BYTES: usize = 64 * 1024;

/// Program on an interface's XDP hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct XdpHook {
    /// Id of the program, if one is attached.
    pub(super) program: Option<u32>,
    /// `native`, `generic`, `offload`, `multiple`, or `none`.
    pub(super) mode: &'static str,
}

/// Reads the XDP hook of the interface with this index.
///
/// # Errors
/// When the kernel cannot be asked, or has no such interface.
pub(super) fn xdp_hook(index: u32) -> io::Result<XdpHook> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)));
    request.finalize();
    let mut bytes = vec![0; request.header.length as usize];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, 0)?;
    read_answer::<RouteNetlinkMessage>(&answer)
}

fn read_answer<M>(answer: &[u8]) -> io::Result<XdpHook>
where
    M: NetlinkDeserializable + Into<RouteNetlinkMessage>,
{
    let message = NetlinkMessage::<M>::deserialize(answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let link = match message.payload {
        NetlinkPayload::InnerMessage(inner) => match inner.into() {
            RouteNetlinkMessage::NewLink(link) => link,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        },
        NetlinkPayload::Error(error) => return Err(error.to_io()),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut hook = XdpHook { program: None, mode: "none" };
    let attributes = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    for attribute in attributes.flatten() {
        match attribute {
            LinkXdp::ProgId(id) => hook.program = Some(*id),
            LinkXdp::Attached(attached) => {
                hook.mode = match attached {
                    XdpAttached::Driver => "native",
                    XdpAttached::SocketBuffer => "generic",
                    XdpAttached::Hardware => "offload",
                    XdpAttached::Multiple => "multiple",
                    _ => "none",
                }
            }
            _ => {}
        }
    }
    Ok(hook)
}
