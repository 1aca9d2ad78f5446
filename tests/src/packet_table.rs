//! The packet table: frames with their expected outcome, run through the host engine and the kernel.
//!
//! Expectations are written from the standards and `docs/architecture.md#counting`, not from the parser's code. A case
//! names the whole 5-tuple (the flow's tag proves it), the direction, the IP bytes and the protocol, or the reason to
//! skip.

mod cases;
pub mod drive;
mod frames;

use std::net::IpAddr;

use anyhow::{Result, bail};
use monitor_common::abi::{
    key::{Address, FlowKey, Seed, tunnel_digest},
    protocol::Protocol,
    reason::Reason,
    tally::Direction,
};

use drive::{Engine, Observed, observe};

/// One frame and the expected result.
#[derive(Clone, Debug)]
pub struct Case {
    /// Description of the frame.
    pub name: &'static str,
    /// The frame from its Ethernet header on, without the frame check sequence.
    pub frame: Vec<u8>,
    /// Expected outcome.
    pub expected: Expected,
}

/// Expected outcome of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Counted under a reason, nowhere else.
    Skipped(Reason),
    /// Counted in a flow, nowhere else.
    Flow(Flow),
    /// Counted as transit with these IP bytes, nowhere else.
    Transit(u64),
}

/// A flow, and the counts that one frame adds to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Sender and its port.
    pub source: (IpAddr, u16),
    /// Receiver and its port.
    pub destination: (IpAddr, u16),
    /// IP protocol number.
    pub l4: u8,
    /// A fragment that is not the first.
    pub fragment: bool,
    /// Outer addresses of a tunnel.
    pub tunnel: Option<(IpAddr, IpAddr)>,
    /// Direction as the pools define it.
    pub direction: Direction,
    /// IP bytes that the frame adds.
    pub bytes: u64,
    /// Protocol of the flow after this frame.
    pub protocol: Protocol,
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    cases::all()
}

/// Secret of the flow hash in these tests; fixed, so that tags identify flows.
pub const SEED: Seed = Seed::from_random([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 0x5555_aaaa_3333_cccc]);

/// Runs the whole table through an engine and returns the number of frames.
///
/// # Errors
/// With every case that went wrong.
pub fn run(engine: &mut impl Engine) -> Result<usize> {
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let result = observe(engine, &case.frame).and_then(|observed| case.expected.compare(&observed));
        if let Err(error) = result {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    if wrong.is_empty() {
        return Ok(cases.len());
    }
    bail!("{} of {} cases of engine `{}` are wrong:\n  {}", wrong.len(), cases.len(), engine.name(), wrong.join("\n  "))
}

impl Expected {
    /// Compares with the result of an engine.
    ///
    /// # Errors
    /// When they differ.
    pub fn compare(&self, observed: &Observed) -> Result<()> {
        let wanted = match self {
            Self::Skipped(reason) => Observed::Skipped(*reason),
            Self::Transit(bytes) => Observed::Transit { bytes: *bytes },
            Self::Flow(flow) => Observed::Flow {
                tag: flow.key().tag(&SEED),
                direction: flow.direction,
                protocol: flow.protocol as u8,
                bytes: flow.bytes,
            },
        };
        if *observed != wanted {
            bail!("observed {observed:?}, expected {wanted:?} for {self:?}");
        }
        Ok(())
    }
}

impl Flow {
    /// The canonical key: the numerically lower endpoint first.
    fn key(&self) -> FlowKey {
        let ends = [self.source, self.destination].map(|(address, port)| (address_of(address), port));
        let [lower, higher] = if ends[0] <= ends[1] { ends } else { [ends[1], ends[0]] };
        FlowKey {
            lower: lower.0,
            higher: higher.0,
            lower_port: lower.1,
            higher_port: higher.1,
            protocol: self.l4,
            fragment: u8::from(self.fragment),
            tunnel: self.tunnel.map_or(0, |(a, b)| tunnel_digest(address_of(a), address_of(b))),
        }
    }
}

fn address_of(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::v4(address.to_bits()),
        IpAddr::V6(address) => Address::v6(address.octets()),
    }
}
