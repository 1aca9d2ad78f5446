//! A packet of a settled flow executes no more BPF instructions than `MOST` allows.
//!
//! Times on a shared machine hide a few instructions; a count does not. The committed object runs in the interpreter on
//! one frame, with a settled flow for it in the table. The packet must end in the counter of that flow, and the program
//! may call nothing but lookups in arrays. Needs no rights and no kernel.

use std::mem::offset_of;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use monitor_common::{
    abi::{
        interface::InterfaceEntry,
        key::Address,
        limits::WAYS,
        protocol::{Confidence, Protocol},
        settings::Settings,
        tally::{Direction, NodeTally, node_index},
    },
    parse::{self, packet::Frame},
    tables::{
        flow_table::{Ends, FlowSet, FlowState, pack},
        pool_table,
    },
};
use peertally_datapath::object::{OBJECT, PROGRAM};
use peertally_tests::interpreter::{Executed, Interpreter, XDP_PASS};
use peertally_tests::wire::{flag, tcp, udp};

/// Most instructions of a packet: within the second of the flow's latest packet, and in a new one. Lower them when the
/// program gets shorter; raise them only with a reason in the commit.
const MOST: [(&str, [u64; 2]); 4] =
    [("IPv4 TCP", [188, 216]), ("IPv4 UDP", [190, 218]), ("IPv6 TCP", [264, 292]), ("IPv6 UDP", [263, 291])];
/// Most instructions of a packet between two addresses outside every pool.
const TRANSIT: u64 = 314;
/// Lookups of such a packet: settings, both sets, both ends' pools, interface, node tally, event, scratch memory.
const TRANSIT_LOOKUPS: u64 = 9;
/// Lookups of a packet: the settings, its interface and the set of its flow.
const LOOKUPS: u64 = 3;
/// The interface that frames arrive on.
const INTERFACE: u16 = 7;
/// The second of the flow's latest packet.
const SECOND: u16 = 1000;

/// Frames of one row of [`MOST`], from either end of a flow.
fn frames(row: &str) -> [Vec<u8>; 2] {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let (a, b) = if row.starts_with("IPv4") {
        (address("10.0.0.1:50000"), address("192.0.2.1:51413"))
    } else {
        (address("[2001:db8::1]:50000"), address("[2001:db8:ffff::1]:51413"))
    };
    [(a, b), (b, a)].map(|(from, to)| {
        if row.ends_with("TCP") {
            tcp(from, to, flag::ACK, b"payload")
        } else {
            udp(from, to, b"payload of a datagram")
        }
    })
}

/// Runs the program on a packet of a settled flow in one way of its set, and checks where the packet was counted.
fn execute(program: &mut Interpreter, frame: &[u8], way: usize, new_second: bool) -> Result<Executed> {
    let headers = parse::headers(&Frame::new(frame, frame.len())).ok().context("the frame has no headers")?;
    let (key, from_lower) = headers.flow_key();
    let settled = FlowState::inspecting(SECOND, true, Ends::Lower, InterfaceEntry(0))
        .settled(Protocol::BitTorrent as u8, Confidence::Signature as u8);
    let now = u64::from(SECOND) + u64::from(new_second);
    let (tag, state) = (offset_of!(FlowSet, tags) + 8 * way, offset_of!(FlowSet, states) + 8 * way);
    let counter = offset_of!(FlowSet, counters) + 8 * (2 * way + (from_lower as usize ^ 1));
    program.write("SETTINGS", offset_of!(Settings, clock_s), now)?;
    program.write("FLOWS", tag, key.tag(&Settings::default().seed))?;
    program.write("FLOWS", state, settled.0)?;
    let executed = program.run(frame, u32::from(INTERFACE))?;
    ensure!(executed.verdict == XDP_PASS, "the program answered {}", executed.verdict);
    let counted = program.read("FLOWS", counter)?;
    ensure!(counted == pack(1, u64::from(headers.ip_bytes)), "the packet is not in the counter of its flow");
    let second = FlowState(program.read("FLOWS", state)?).second();
    ensure!(u64::from(second) == now, "the last-seen second of the flow is {second}");
    for offset in [tag, state, counter] {
        program.write("FLOWS", offset, 0)?;
    }
    Ok(executed)
}

#[test]
fn a_settled_packet_executes_no_more_instructions() -> Result<()> {
    let mut program = Interpreter::new(OBJECT, PROGRAM)?;
    let mut failures = Vec::new();
    for (row, most) in MOST {
        for (new_second, most) in [(false, most[0]), (true, most[1])] {
            let mut instructions = 0;
            for (frame, way) in frames(row).iter().flat_map(|frame| (0..WAYS).map(move |way| (frame, way))) {
                let executed = execute(&mut program, frame, way, new_second)
                    .with_context(|| format!("{row}, way {way}, new second: {new_second}"))?;
                let calls = (executed.lookups, executed.tick_readings);
                assert_eq!(calls, (LOOKUPS, 0), "{row}, way {way}, new second: {new_second}");
                instructions = instructions.max(executed.instructions);
            }
            println!("{row}, new second: {new_second}: {instructions} instructions, at most {most}");
            if instructions > most {
                failures.push(format!("{row}, new second: {new_second}: {instructions} instead of {most}"));
            }
        }
    }
    assert!(failures.is_empty(), "more instructions than MOST allows: {failures:#?}");
    Ok(())
}

#[test]
fn a_transit_packet_ends_in_the_entry() -> Result<()> {
    let mut program = Interpreter::new(OBJECT, PROGRAM)?;
    let [frame, _] = frames("IPv4 TCP");
    let executed = program.run(&frame, u32::from(INTERFACE))?;
    println!("transit: {} instructions, {} lookups", executed.instructions, executed.lookups);
    assert_eq!(executed.verdict, XDP_PASS);
    assert_eq!((executed.lookups, executed.tick_readings), (TRANSIT_LOOKUPS, 1));
    assert!(executed.instructions <= TRANSIT, "{} instructions of a transit packet", executed.instructions);
    let index = node_index(InterfaceEntry(0).shared_number(), Direction::Transit, 0, 0, 0) as usize;
    assert_eq!(program.read("NODE", index * size_of::<NodeTally>() + offset_of!(NodeTally, packets))?, 1);
    Ok(())
}

#[test]
fn an_unknown_flow_of_a_subscriber_leaves_the_entry() -> Result<()> {
    let mut program = Interpreter::new(OBJECT, PROGRAM)?;
    let [frame, _] = frames("IPv4 TCP");
    // A pool around 10.0.0.1: its byte in the pool table has the length of a subscriber's block.
    let cell = pool_table::cell(Address::v4(0x0a00_0001)) as usize;
    program.write("POOL_TABLE", cell & !7, 128 << (cell % 8 * 8))?;
    let error = program.run(&frame, u32::from(INTERFACE)).expect_err("the next stage is called");
    assert!(format!("{error:#}").contains("kernel function 12 "), "no tail call (`bpf_tail_call`): {error:#}");
    Ok(())
}
