//! State that the rules of one flow carry from packet to packet, and its flags.

use crate::parse::payload::Payload;

/// State of one flow that the rules carry from one of its first packets to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleState {
    /// Value that a rule stores for a later packet. TCP: bytes still missing of a message (`dissect/edonkey.rs`).
    /// UDP: the pending request, of the kind that [`rule_flags`] names.
    pub rule_value: u64,
    /// Bits that rules set for a later packet; each is declared in [`rule_flags`]. TCP and UDP flows never share one.
    pub rule_flags: u32,
}

impl RuleState {
    /// TCP: stores how many bytes are still missing of a message in this payload's direction.
    #[inline(always)]
    pub fn owe(&mut self, payload: &Payload, bytes: u32) {
        self.rule_value = u64::from(bytes);
        let from = if payload.from_lower != 0 { rule_flags::OWED_FROM_LOWER } else { 0 };
        self.rule_flags = (self.rule_flags & !rule_flags::OWED_FROM_LOWER) | rule_flags::OWED | from;
    }

    /// Stores a pending request of this payload's sender, in place of an earlier one of either side.
    #[inline(always)]
    pub fn remember_request(&mut self, payload: &Payload, kind: u32, rule_value: u64) {
        self.rule_value = rule_value;
        self.rule_flags = (self.rule_flags & !rule_flags::PENDING)
            | kind
            | if payload.from_lower != 0 { rule_flags::PENDING_FROM_LOWER } else { 0 };
    }

    /// Stores a pending request of this payload's sender; the other side's pending request stays.
    #[inline(always)]
    pub fn remember_request_per_side(&mut self, payload: &Payload, kind: u32, value: u32) {
        let shift = 32 * (payload.from_lower & 1);
        let kept = if self.rule_flags & kind != 0 { self.rule_value & !(0xffff_ffff << shift) } else { 0 };
        self.rule_value = kept | u64::from(value) << shift;
        self.rule_flags = (self.rule_flags & !rule_flags::PENDING) | kind;
    }

    /// The pending request of one side that [`Self::remember_request_per_side`] stored; 0 for none. `from_lower` is 1
    /// or 0.
    #[inline(always)]
    #[must_use]
    pub fn pending_request_per_side(&self, from_lower: u32, kind: u32) -> u32 {
        let shift = 32 * (from_lower & 1);
        if self.rule_flags & kind != 0 { (self.rule_value >> shift) as u32 } else { 0 }
    }

    /// Sets bits in the pending request of the other side.
    #[inline(always)]
    pub fn mark_request_of_other_side(&mut self, payload: &Payload, bits: u32) {
        self.rule_value |= u64::from(bits) << (32 * (1 - (payload.from_lower & 1)));
    }

    /// Records whether this payload repeats a value that the other side chose.
    #[inline(always)]
    pub fn set_echoed(&mut self, echoes: bool) {
        self.rule_flags = (self.rule_flags & !rule_flags::ECHOED) | if echoes { rule_flags::ECHOED } else { 0 };
    }

    /// Records whether this payload is certain, and answers the other side's pending request.
    #[inline(always)]
    pub fn set_answered(&mut self, answers: bool) {
        self.rule_flags =
            (self.rule_flags & !rule_flags::ANSWERED) | u32::from(answers) << rule_flags::ANSWERED.trailing_zeros();
    }

    /// Whether the other side has a pending request of this kind.
    #[inline(always)]
    #[must_use]
    pub fn pending_request(&self, payload: &Payload, kind: u32) -> bool {
        let from_lower = self.rule_flags & rule_flags::PENDING_FROM_LOWER != 0;
        (self.rule_flags & kind != 0) && (from_lower != (payload.from_lower != 0))
    }

    /// Records a message that proves too little alone; whether an earlier payload was a different one of them.
    ///
    /// A repeated message proves nothing more: its bytes may be a constant of another protocol. `kind` is not 0.
    #[inline(always)]
    pub fn confirms(&mut self, kind: u8) -> bool {
        let kind = u32::from(kind) << rule_flags::WEAK_SHIFT;
        let earlier = self.rule_flags & rule_flags::WEAK;
        self.rule_flags = (self.rule_flags & !rule_flags::WEAK) | kind;
        (earlier != 0) & (earlier != kind)
    }
}

/// The bits of [`RuleState::rule_flags`], declared in one place so that two rules never share one by accident.
pub mod rule_flags {
    /// TCP: the lower endpoint sent the single byte "1" (WinMX).
    pub const LONE_1_FROM_LOWER: u32 = 1 << 0;
    /// TCP: the higher endpoint sent the single byte "1" (WinMX).
    pub const LONE_1_FROM_HIGHER: u32 = 1 << 1;
    /// TCP: `rule_value` belongs to the lower endpoint's direction.
    pub const OWED_FROM_LOWER: u32 = 1 << 2;
    /// TCP: `rule_value` holds how many bytes of a message are still missing in its direction.
    pub const OWED: u32 = 1 << 3;
    /// TCP: held bytes started as the handshake of Delivery Optimization or Ace Stream does, so frames like
    /// BitTorrent's are not BitTorrent's.
    pub const SWARM: u32 = 1 << 4;
    /// TCP: the lower endpoint sent the peer-source request that `rule_value` refers to (`engine/source_requests.rs`).
    pub const REQUEST_FROM_LOWER: u32 = 1 << 7;
    /// TCP: first bytes of the lower endpoint's stream are held (`dissect/hold_rules.rs`). For this and the next five,
    /// the next higher bit is the higher endpoint's ([`of`]).
    pub const HELD: u32 = 1 << 8;
    /// TCP: the lower endpoint's stream is past its start.
    pub const PAST_START: u32 = 1 << 10;
    /// TCP: the stream started with text of no P2P protocol, so later segments are skipped (`dissect/hold_rules.rs`).
    pub const OTHER: u32 = 1 << 12;
    /// TCP: the stream may go on with WebSocket frames, which are not skipped.
    pub const FRAMES: u32 = 1 << 14;
    /// TCP: the stream started with text that is too short to decide.
    pub const TEXT: u32 = 1 << 16;
    /// TCP: the stream started with a few binary bytes, so later text belongs to the message that they frame.
    pub const FRAMING: u32 = 1 << 18;

    /// TCP: all that is known of the lower endpoint's stream.
    pub const OF_STREAM: u32 = HELD | PAST_START | OTHER | FRAMES | TEXT | FRAMING;

    /// One of the flags that both directions have, for the direction of a packet; `from_lower` is 1 or 0.
    #[inline(always)]
    #[must_use]
    pub const fn of(flag: u32, from_lower: u32) -> u32 {
        flag << (1 - (from_lower & 1))
    }

    /// UDP: the pending request came from the lower endpoint.
    pub const PENDING_FROM_LOWER: u32 = 1 << 0;
    /// UDP: the pending request is a uTP SYN's clock, connection id and sequence number (BEP 29).
    pub const PENDING_UTP_SYN: u32 = 1 << 1;
    /// UDP: the pending request is a tracker request's action and transaction id (BEP 15).
    pub const PENDING_TRACKER: u32 = 1 << 2;
    /// UDP: the pending request is a uTP DATA packet's clock, connection id and sequence number.
    pub const PENDING_UTP_DATA: u32 = 1 << 7;
    /// UDP: the pending requests are transaction ids of DHT queries (BEP 5): the higher endpoint's latest in the low
    /// half, the lower one's in the high half.
    pub const PENDING_DHT: u32 = 1 << 8;
    /// UDP: the pending request is a Kad request, stored as the opcode of its answer.
    pub const PENDING_KAD: u32 = 1 << 9;
    /// UDP: the pending request is one of the Azureus DHT: its transaction and the low half of its connection id.
    pub const PENDING_AZUREUS: u32 = 1 << 10;
    /// UDP: the pending uTP DATA packet follows another one of its side.
    pub const UTP_FOLLOWED: u32 = 1 << 11;
    /// UDP: every bit that describes the pending request.
    pub const PENDING: u32 = PENDING_FROM_LOWER
        | PENDING_UTP_SYN
        | PENDING_TRACKER
        | PENDING_UTP_DATA
        | PENDING_DHT
        | PENDING_KAD
        | PENDING_AZUREUS
        | UTP_FOLLOWED;
    /// UDP: lowest bit of the opcode of the latest Kad, eDonkey or eMule message with bytes that alone prove too
    /// little.
    pub const WEAK_SHIFT: u32 = 16;
    /// UDP: the bits of that opcode.
    pub const WEAK: u32 = 0xff << WEAK_SHIFT;
    /// UDP: this payload answers a request of the other side that was too short to be certain. It repeats no value that
    /// the other side chose, so it proves the sender of the request, and not its own.
    pub const ANSWERED: u32 = 1 << 30;
    /// UDP: this payload repeats a value that the other side chose in an earlier one, so its sender's address is not
    /// forged.
    pub const ECHOED: u32 = 1 << 31;
    /// UDP: flags of one payload, which are cleared before the next.
    pub const OF_PAYLOAD: u32 = ANSWERED | ECHOED;
}
