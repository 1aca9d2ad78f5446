//! Links of this network namespace and the programs on their XDP hooks, read from the kernel (rtnetlink `RTM_GETLINK`,
//! attribute `IFLA_XDP`). Needs no rights.
//!
//! One socket is kept open: later questions need no descriptor. A question that fails is an error, and never the answer
//! that there is none.

use std::{io, sync::Arc};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkInfo, LinkMessage, LinkXdp, State, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use peertally_core::reconcile::{Hook, HookMode, Link};
use rustix::io::Errno;

use super::inspect::Device;

/// Room for one datagram of answers: the kernel fills at most 32 KiB of a dump (`netlink_dump`,
/// net/netlink/af_netlink.c), and one link with many attributes stays well below.
const ANSWER_BYTES: usize = 64 * 1024;

/// A link, and what it received.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The link.
    pub(super) link: Link,
    /// Frames that it has received, by its own count.
    pub(super) received: u64,
}

/// Asks the kernel about links.
pub(super) struct Rtnetlink {
    socket: Socket,
    /// Number of the last question.
    sequence: u32,
}

impl Rtnetlink {
    /// Opens the socket, which belongs to the present network namespace for its whole life.
    ///
    /// # Errors
    /// No socket, for lack of descriptors for example.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The link with this name; `None` if there is none.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(super) fn by_name(&mut self, name: &str) -> io::Result<Option<Found>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        // The kernel also finds alternative names.
        Ok(self.one(question)?.filter(|found| *found.link.name == *name))
    }

    /// The link with this index; `None` if there is none.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(super) fn by_index(&mut self, index: u32) -> io::Result<Option<Found>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        self.one(question)
    }

    /// Every link.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(super) fn all(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.ask(LinkMessage::default(), NLM_F_DUMP, |message| links.push(found(message).link))?;
        Ok(links)
    }

    /// Every link, with what tells which device it is.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(super) fn devices(&mut self) -> io::Result<Vec<Device>> {
        let mut devices = Vec::new();
        self.ask(LinkMessage::default(), NLM_F_DUMP, |message| devices.push(device(message)))?;
        Ok(devices)
    }

    fn one(&mut self, question: LinkMessage) -> io::Result<Option<Found>> {
        let mut answer = None;
        match self.ask(question, 0, |message| answer = Some(found(message))) {
            Ok(()) => Ok(answer),
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks, and hands on every link of the answer.
    fn ask(&mut self, question: LinkMessage, flags: u16, mut take: impl FnMut(&LinkMessage)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(question)));
        request.finalize();
        let mut bytes = vec![0; request.header.length as usize];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let mut answer = Vec::with_capacity(ANSWER_BYTES);
            self.socket.recv(&mut answer, 0)?;
            if self.read::<RouteNetlinkMessage>(&answer, flags, &mut take)? {
                return Ok(());
            }
        }
    }

    /// Reads a datagram; whether it was the last one of the answer.
    fn read<M>(&self, mut datagram: &[u8], flags: u16, take: &mut impl FnMut(&LinkMessage)) -> io::Result<bool>
    where
        M: NetlinkDeserializable + Into<RouteNetlinkMessage>,
    {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        while !datagram.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(datagram).map_err(|error| invalid(error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            datagram = datagram.get(length..).unwrap_or_default();
            // What is left of a question whose answer could not be read.
            if message.header.sequence_number != self.sequence {
                continue;
            }
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => match inner.into() {
                    RouteNetlinkMessage::NewLink(link) => take(&link),
                    _ => return Err(invalid("no link in the answer".to_owned())),
                },
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(_) => return Ok(true),
                _ => {}
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn found(message: &LinkMessage) -> Found {
    let link = Link { name: Arc::from(""), index: message.header.index, hook: Hook::default() };
    let mut found = Found { link, received: 0 };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.link.name = Arc::from(name.as_str()),
            LinkAttribute::Stats64(stats) => found.received = stats.rx_packets,
            LinkAttribute::Xdp(attributes) => found.link.hook = hook(attributes),
            _ => {}
        }
    }
    found
}

fn device(message: &LinkMessage) -> Device {
    let mut device = Device::of(found(message).link);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Link(index) => device.parent = Some(*index).filter(|index| *index != device.link.index),
            LinkAttribute::Controller(index) => device.master = Some(*index),
            LinkAttribute::OperState(state) => device.up = matches!(state, State::Up | State::Unknown),
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                device.kind = kind.unwrap_or_default();
            }
            _ => {}
        }
    }
    device
}

fn hook(attributes: &[LinkXdp]) -> Hook {
    let mut hook = Hook::default();
    for attribute in attributes {
        match attribute {
            LinkXdp::ProgId(id) => hook.program = Some(*id),
            LinkXdp::Attached(attached) => {
                hook.mode = match attached {
                    XdpAttached::Driver => HookMode::Native,
                    XdpAttached::SocketBuffer => HookMode::Generic,
                    XdpAttached::Hardware => HookMode::Offload,
                    XdpAttached::Multiple => HookMode::Multiple,
                    _ => HookMode::None,
                }
            }
            _ => {}
        }
    }
    hook
}
