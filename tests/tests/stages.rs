//! The stages of the program: payloads are copied to their last byte and no further, and a stage that is missing costs
//! no packet.

use std::net::{IpAddr, Ipv4Addr};

use aya::{
    TestRun as _, TestRunOptions,
    maps::{PerCpuArray, ProgramArray},
};
use monitor_common::{
    abi::{
        event::KernelEvent,
        limits::{TAIL, WINDOW},
        protocol::Protocol,
        stage::StageProgram,
    },
    parse::{self, ip_protocol, packet::Frame},
    tables::context::Scratch,
};
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject},
};
use peertally_tests::{
    both_datapaths::{BothDatapaths, options},
    interpreter::XDP_PASS,
    kernel::{load_options, may_use_kernel},
    p2p,
    wire::{at, ciphertext, flag, tcp, udp},
};

/// The frame of an IPv4 packet whose last bytes are no part of the packet any more, as padding is none.
fn with_padding(frame: &[u8], padding: usize) -> Vec<u8> {
    const TOTAL_LENGTH: usize = 14 + 2;
    const UDP_LENGTH: usize = 14 + 20 + 4;
    let mut frame = frame.to_vec();
    let is_udp = frame[14 + 9] == ip_protocol::UDP;
    for at in [Some(TOTAL_LENGTH), is_udp.then_some(UDP_LENGTH)].into_iter().flatten() {
        let length = u16::from_be_bytes([frame[at], frame[at + 1]]) - padding as u16;
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    frame
}

/// The bytes after a packet in its frame are often those of an earlier one. If the kernel read one of them, it would
/// see messages that the host does not see.
#[test]
fn payloads_end_where_their_packets_end() {
    let sizes = TableSizes { flows: 1 << 15, tallies: 1 << 15, peers: 1 << 15 };
    let mut both = BothDatapaths::new("payload bounds", &options(sizes));
    let other = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    let (mut host, mut cuts, mut verdicts) = (0_u32, 0_u32, 0_u32);
    for exchange in p2p::exchanges() {
        let count = exchange.frames(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), other).len();
        let last = exchange.frames(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), other)[count - 1].clone();
        let len = parse::headers(&Frame::new(&last, last.len())).expect("headers").payload_len as usize;
        for padding in (0..len).filter(|padding| *padding < 80 || len - padding < 80) {
            host += 1;
            let opener = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | host));
            let frames = exchange.frames(opener, other);
            for frame in &frames[..count - 1] {
                both.frame(frame);
            }
            verdicts +=
                u32::from(both.send(&with_padding(&frames[count - 1], padding)).protocol != Protocol::Unclassified);
            both.now_s += 1;
            cuts += 1;
        }
    }
    println!("{cuts} cut payloads, {verdicts} with a verdict");
    assert!(cuts > 3_000 && verdicts > 500, "{cuts} cut payloads, {verdicts} with a verdict");
}

/// Frames that lead through every stage: two new flows, their payloads, and a verdict.
fn frames() -> Vec<Vec<u8>> {
    let (subscriber, remote) = (at("10.0.0.9:50000"), at("198.51.100.7:51413"));
    let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[0xa5; 20], b"-PT0001-abcdefghijkl"].concat();
    vec![
        tcp(subscriber, remote, flag::SYN, b""),
        udp(subscriber, remote, &ciphertext(300, 1)),
        tcp(subscriber, remote, flag::ACK, &handshake),
    ]
}

#[test]
fn a_missing_stage_is_counted_and_the_packet_passes() {
    if !may_use_kernel("missing stage").expect("rights") {
        return;
    }
    for (stage, missed) in [
        (None, 0),
        (Some(StageProgram::Flow), 3),
        (Some(StageProgram::InspectTcp), 1),
        (Some(StageProgram::InspectUdp), 1),
        (Some(StageProgram::Verdict), 2),
        // Both proofs, and the record of the verdict.
        (Some(StageProgram::Charge), 3),
    ] {
        let mut object = LoadedObject::load(&LoadOptions { ..load_options() }).expect("loads");
        if let Some(stage) = stage {
            let stages = object.ebpf().map_mut("STAGES").expect("a table of stages");
            ProgramArray::try_from(stages).expect("programs").clear_index(&(stage as u32)).expect("is there");
        }
        for frame in frames() {
            let run = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
            let result = object.program().expect("the entry").test_run(run).expect("runs");
            assert_eq!(u64::from(result.return_value), XDP_PASS, "{stage:?}");
        }
        let of = |wanted: KernelEvent| {
            let events = object.events().expect("events");
            events.into_iter().find(|(event, _)| *event == wanted).expect("is counted").1
        };
        assert_eq!(of(KernelEvent::StageMissing), missed, "{stage:?}");
        assert_eq!(of(KernelEvent::InternalError), 0, "{stage:?}");
        let flow = of(KernelEvent::FlowNew);
        assert_eq!(flow, if stage == Some(StageProgram::Flow) { 0 } else { 2 }, "{stage:?}");
        let scratch = object.map("SCRATCH").expect("scratch memory");
        let scratch: PerCpuArray<_, [u8; size_of::<Scratch>()]> = scratch.try_into().expect("per CPU");
        for cpu in scratch.get(&0, 0).expect("scratch memory").iter() {
            assert!(cpu[..WINDOW + TAIL].iter().all(|byte| *byte == 0), "{stage:?}: a payload is left in memory");
        }
    }
}
