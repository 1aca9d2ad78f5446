//! Verdict records: one message to the agent for each flow and subscriber that the flow charges under a P2P verdict.
//!
//! The first verdict under which a flow charges a subscriber has the record. A certain verdict that replaces a
//! provisional one brings no second one, so records count flows.
//!
//! A verdict and a charge only note the ends in the packet's context; the last stage sends the messages. So the
//! verifier walks this once.

use crate::{
    abi::{event::KernelEvent, protocol::Protocol, record::VerdictRecord, settings::Settings},
    tables::{
        context::{NO_POOL, PacketContext},
        maps::Maps,
    },
};

/// Notes that the flow charges the subscribers in `ends` (bit 0 lower, bit 1 higher) from now on under this verdict of
/// a rule.
#[inline(always)]
pub(super) fn note<M: Maps>(maps: &M, ctx: &mut PacketContext, ends: u64, verdict: (u8, u8), rule: u32) {
    if maps.records() && verdict.0 > Protocol::Fragment as u8 && ends & 3 != 0 {
        let numbers = u32::from(verdict.0) << 8 | u32::from(verdict.1) << 16 | rule << 24;
        // One packet may bring a verdict that charges one end, and then charge the other one.
        ctx.flow.records = ctx.flow.records & 3 | (ends & 3) as u32 | numbers;
    }
}

/// Whether the packet brings about a record.
#[inline(always)]
pub(super) const fn is_due(ctx: &PacketContext) -> bool {
    ctx.flow.records != 0
}

/// Sends what was noted.
#[inline(always)]
pub(super) fn send<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext) {
    if maps.records() && ctx.flow.records != 0 {
        send_of(maps, settings, ctx, 0);
        send_of(maps, settings, ctx, 1);
    }
}

/// Sends the record of one end (0 lower, 1 higher), if one was noted.
#[inline(never)]
fn send_of<M: Maps>(maps: &M, settings: &Settings, ctx: &PacketContext, end: usize) {
    let (end, noted) = (end & 1, ctx.flow.records);
    let block_len = ctx.subscribers.block_lens[end];
    if noted >> end & 1 == 0 || block_len == NO_POOL {
        return;
    }
    let record = VerdictRecord {
        time_s: ctx.frame.now_s,
        block: ctx.block(end),
        own: ctx.address(end),
        remote: ctx.address(1 - end),
        realm: ctx.frame.realm,
        own_port: ctx.port(end),
        remote_port: ctx.port(1 - end),
        block_len: block_len as u8,
        protocol: (noted >> 8) as u8,
        confidence: (noted >> 16) as u8,
        rule: (noted >> 24) as u8,
        transport: ctx.frame.headers.protocol,
        answered: u8::from(settings.one_way.load() == 0),
        reserved: 0,
    };
    if !maps.report_record(&record) {
        maps.count_event(KernelEvent::RecordLost);
    }
}
