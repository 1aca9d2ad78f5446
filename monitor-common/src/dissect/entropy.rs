//! Entropy check: payloads that look like random bytes, which is all that an obfuscated protocol shows.
//!
//! Source: the "fully encrypted traffic" rules as published (Wu et al., "How the Great Firewall of China Detects and
//! Blocks Fully Encrypted Traffic", USENIX Security 2023, section 4): set bits per byte, a printable start, the
//! printable share, and the TLS and HTTP exemptions. Two bounds are wider than published, since a flow is judged by one
//! payload: eight printable bytes at the start (published: six) and three fifths printable (published: a half). The
//! check only narrows candidates down: a high-entropy payload proves nothing alone.

use crate::{
    bpf::branchless::{EACH_BYTE, TOP_BITS, printable_bytes},
    parse::payload::Payload,
};

/// Bytes of a payload that are read. An MSE handshake has at least as many (the Diffie-Hellman key).
pub const SAMPLE: usize = 96;
/// Shorter payloads prove too little: the fewer bytes, the wider random ones scatter.
pub(super) const SHORTEST: u32 = 16;
/// From here on, random bytes fail by chance in at most two of a thousand payloads (tested below); a shorter payload
/// that fails says nothing.
const SURE: u32 = 64;
/// Bounds of set bits per byte, in fifths: random bytes have 4.0, and more than 3.4 and less than 4.6.
const FEWEST_FIFTHS: u32 = 17;
const MOST_FIFTHS: u32 = 23;

/// Result of the entropy check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entropy {
    /// Random-looking, and no TLS, DTLS, STUN or text.
    High,
    /// Recognisable structure.
    Low,
    /// Too short to decide.
    TooShort,
}

/// Checks a payload.
#[inline(never)]
#[must_use]
pub fn measure(payload: &Payload) -> Entropy {
    let (first, second) = (payload.byte(0), payload.byte(1));
    // TLS and DTLS records (RFC 8446 section 5.1, RFC 9147 section 4).
    let record = (first.wrapping_sub(0x14) < 4) & ((second == 0x03) | (second == 0xfe));
    let stun = payload.be32(4) == 0x2112_a442;
    let sample = if payload.captured < SAMPLE as u32 { payload.captured } else { SAMPLE as u32 };
    if record | stun | (printable_bytes(payload.word(0)) == TOP_BITS) {
        return Entropy::Low;
    }
    if sample < SHORTEST {
        return Entropy::TooShort;
    }
    let (mut ones, mut text) = (0, 0);
    let mut index = 0;
    // Bytes beyond the payload are zero: neither set bits nor printable.
    while index < SAMPLE / 8 {
        let counts = counts(payload.word(index));
        ones += counts as u32;
        text += (counts >> 32) as u32;
        index += 1;
    }
    if (5 * ones > FEWEST_FIFTHS * sample) & (5 * ones < MOST_FIFTHS * sample) & (5 * text <= 3 * sample) {
        Entropy::High
    } else if sample < SURE {
        Entropy::TooShort
    } else {
        Entropy::Low
    }
}

/// Set bits of a word, and in the upper half its printable bytes. Inlined twelve times: each first payload needs all of
/// them.
#[inline(always)]
const fn counts(word: u64) -> u64 {
    word.count_ones() as u64 | (top_bits(printable_bytes(word)) as u64) << 32
}

/// Number of top bits that are set.
#[inline(always)]
const fn top_bits(bytes: u64) -> u32 {
    (((bytes >> 7).wrapping_mul(EACH_BYTE)) >> 56) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn high(bytes: &[u8]) -> bool {
        measure(&Payload::from_bytes(bytes, 50_000, 51_413, true)) == Entropy::High
    }

    /// Bytes that no generator of random numbers chose, and that look as if one did.
    fn ciphertext(len: usize) -> Vec<u8> {
        let mut state = 0x0123_4567_89ab_cdef_u64;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    #[test]
    fn ciphertext_looks_random_and_protocols_do_not() {
        assert!(high(&ciphertext(300)));
        assert!(high(&ciphertext(40)));
        for plain in [
            b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\r\n".as_slice(),
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
            b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0",
            &[0; 200],
            &[0xff; 200],
            &ciphertext(15),
        ] {
            assert!(!high(plain), "{}", String::from_utf8_lossy(plain));
        }
        for head in [b"\x16\x03\x01".as_slice(), b"\x17\x03\x03", b"\x16\xfe\xfd", b"\x01\x01\0\x08\x21\x12\xa4\x42"] {
            assert!(!high(&[head, &ciphertext(200)].concat()), "{head:02x?}");
        }
    }

    #[test]
    fn random_bytes_rarely_fail() {
        const PAYLOADS: usize = 50_000;
        let bytes = ciphertext(PAYLOADS * SAMPLE);
        for len in [SURE as usize, SAMPLE] {
            let failed = bytes.chunks(SAMPLE).filter(|payload| !high(&payload[..len])).count();
            assert!(failed * 1000 <= 2 * PAYLOADS, "{failed} of {PAYLOADS} with {len} bytes");
        }
    }

    proptest! {
        #[test]
        fn printable_bytes_are_counted(bytes: [u8; 8]) {
            let expected = bytes.iter().filter(|byte| (0x20..=0x7e).contains(*byte)).count() as u32;
            prop_assert_eq!(top_bits(printable_bytes(u64::from_le_bytes(bytes))), expected);
        }

        #[test]
        fn base64_never_looks_random(text in "[A-Za-z0-9+/]{96,200}") {
            prop_assert!(!high(text.as_bytes()));
        }
    }
}
