//! The subscriber of a tally, and the keyed pseudonym under which the subscriber is shown.
//!
//! An address block never becomes a label value. A pseudonym cannot be reversed without the node's key, and a
//! subscriber has different pseudonyms under different keys.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::IpNet;
use monitor_common::abi::tally::TallyKey;

/// One subscriber block, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber {
    /// First address of the block; IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).
    pub address: [u8; 16],
    /// Realm of the address; 0 on a node without realms.
    pub realm: u32,
    /// Length of the block, out of 128.
    pub prefix_len: u8,
}

impl Subscriber {
    /// The subscriber of a tally; `None` for the catch-all.
    #[must_use]
    pub fn of(key: &TallyKey) -> Option<Self> {
        (*key != TallyKey::CATCH_ALL).then_some(Self {
            address: key.address,
            realm: key.realm,
            prefix_len: key.prefix_len,
        })
    }

    /// The subscriber of a block as an operator writes it; the other way round than [`Self::block`].
    #[must_use]
    pub fn of_block(block: IpNet, realm: u32) -> Self {
        match block {
            IpNet::V4(net) => {
                Self { address: net.addr().to_ipv6_mapped().octets(), realm, prefix_len: net.prefix_len() + 96 }
            }
            IpNet::V6(net) => Self { address: net.addr().octets(), realm, prefix_len: net.prefix_len() },
        }
    }

    /// The block as an operator writes it: `10.0.0.1/32`, `2001:db8::/56`.
    #[must_use]
    pub fn block(&self) -> IpNet {
        let address = Ipv6Addr::from(self.address);
        let net = match address.to_ipv4_mapped() {
            Some(v4) if self.prefix_len >= 96 => IpNet::new(IpAddr::V4(v4), self.prefix_len - 96),
            _ => IpNet::new(IpAddr::V6(address), self.prefix_len),
        };
        net.unwrap_or_else(|_| IpNet::from(IpAddr::V6(address)))
    }
}

/// Length of a pseudonym key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Length of a pseudonym, and of other keyed hashes, in bytes.
pub const HASH_BYTES: usize = 12;

/// Makes pseudonyms. The key is neither shown nor logged. Clones share it: a new key is that of all.
#[derive(Clone)]
pub struct Pseudonyms {
    key: Arc<RwLock<[u8; KEY_BYTES]>>,
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonyms(..)")
    }
}

impl Pseudonyms {
    /// Pseudonyms under a key.
    #[must_use]
    pub fn with_key(key: [u8; KEY_BYTES]) -> Self {
        Self { key: Arc::new(RwLock::new(key)) }
    }

    /// Makes pseudonyms under another key from now on.
    pub fn set_key(&self, key: [u8; KEY_BYTES]) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    fn key(&self) -> [u8; KEY_BYTES] {
        *self.key.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name of the key, in hexadecimal: equal names mean that pseudonyms can be compared. It tells nothing of the key.
    #[must_use]
    pub fn key_id(&self) -> String {
        let id = blake3::derive_key("peertally 2026-12-01 name of the pseudonym key", &self.key());
        id[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The pseudonym of a subscriber: 96 bits in hexadecimal, far more than a million subscribers need to stay apart.
    #[must_use]
    pub fn of(&self, subscriber: &Subscriber) -> String {
        self.hash_of(subscriber).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// [`Self::of`] as bytes. An address of its own is a block of 128 bits.
    #[must_use]
    pub fn hash_of(&self, subscriber: &Subscriber) -> [u8; HASH_BYTES] {
        let mut input = [0; 21];
        input[..4].copy_from_slice(&subscriber.realm.to_be_bytes());
        input[4..20].copy_from_slice(&subscriber.address);
        input[20] = subscriber.prefix_len;
        self.hash(&input)
    }

    /// The keyed hash of the remote address of a flow (IPv4 mapped into IPv6). No subscriber has an equal one.
    #[must_use]
    pub fn hash_of_remote(&self, address: [u8; 16]) -> [u8; HASH_BYTES] {
        self.hash(&[b"remote".as_slice(), &address].concat())
    }

    fn hash(&self, input: &[u8]) -> [u8; HASH_BYTES] {
        let hash = blake3::keyed_hash(&self.key(), input);
        let mut short = [0; HASH_BYTES];
        short.copy_from_slice(&hash.as_bytes()[..HASH_BYTES]);
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber(last: u8) -> Subscriber {
        let mut address = [0; 16];
        address[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, last]);
        Subscriber { address, realm: 0, prefix_len: 128 }
    }

    #[test]
    fn blocks_read_as_typed() {
        assert_eq!(subscriber(1).block().to_string(), "10.0.0.1/32");
        let v6 =
            Subscriber { address: "2001:db8::".parse::<Ipv6Addr>().expect("v6").octets(), realm: 0, prefix_len: 56 };
        assert_eq!(v6.block().to_string(), "2001:db8::/56");
        for subscriber in [v6, subscriber(1), Subscriber { realm: 7, ..v6 }] {
            assert_eq!(Subscriber::of_block(subscriber.block(), subscriber.realm), subscriber);
        }
        assert_eq!(Subscriber::of(&TallyKey::CATCH_ALL), None);
    }

    #[test]
    fn pseudonyms_depend_on_key_and_subscriber() {
        let (one, other) = (Pseudonyms::with_key([3; KEY_BYTES]), Pseudonyms::with_key([7; KEY_BYTES]));
        assert_eq!(one.of(&subscriber(1)), one.clone().of(&subscriber(1)));
        assert_ne!(one.of(&subscriber(1)), one.of(&subscriber(2)));
        assert_ne!(one.of(&subscriber(1)), other.of(&subscriber(1)));
        assert_eq!(one.of(&subscriber(1)).len(), 24);
        assert_eq!(format!("{one:?}"), "Pseudonyms(..)");
    }
}
