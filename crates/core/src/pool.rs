//! Subscriber pools as they are written on the command line and in the configuration: `PREFIX[/ASSIGN]`.
//!
//! A pool is a prefix with the length of the block that each subscriber gets (`docs/architecture.md#subscribers`).

mod change;

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use monitor_common::{abi::key::Address, tables::pool_table};

pub use change::{BlockFate, PoolChange};

/// Block length of one IPv4 subscriber when none is given.
pub const DEFAULT_ASSIGN_IPV4: u8 = 32;
/// Block length of one IPv6 subscriber when none is given (RIPE-690 section 4.2).
pub const DEFAULT_ASSIGN_IPV6: u8 = 56;

/// A prefix, and the block length that one subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool {
    /// First address of the prefix; bits beyond `prefix_len` are zero.
    pub address: IpAddr,
    /// Length of the prefix, out of 32 or 128.
    pub prefix_len: u8,
    /// Length of one subscriber's block, at least `prefix_len`.
    pub assign_len: u8,
    /// Whether other routers serve subscribers of the pool, too.
    pub shared: bool,
}

/// Errors of a pool's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not `ADDRESS/LENGTH[/ASSIGN]`.
    #[error("`{0}` is not PREFIX[/ASSIGN]; write for example 10.0.0.0/8/32 or 2001:db8::/32/56")]
    Shape(String),
    /// The address does not parse.
    #[error("`{0}` is not an IPv4 or IPv6 address")]
    Address(String),
    /// A length does not parse, or is longer than the address.
    #[error("`{length}` is not a prefix length from 0 to {max}")]
    Length {
        /// Text as typed.
        length: String,
        /// Bits of the address family.
        max: u8,
    },
    /// A block longer than its pool.
    #[error("a subscriber's block (/{assign_len}) cannot be larger than its pool (/{prefix_len})")]
    Assign {
        /// Block length.
        assign_len: u8,
        /// Prefix length.
        prefix_len: u8,
    },
    /// An IPv6 prefix of IPv4-mapped addresses.
    #[error("`{given}` is of IPv4-mapped addresses, which no IPv6 packet has; write {prefix}")]
    Mapped {
        /// Text as typed.
        given: String,
        /// The IPv4 prefix.
        prefix: IpNet,
    },
    /// Bits after the prefix are set.
    #[error("`{given}` has bits set after its prefix; write {network}/{prefix_len}")]
    HostBits {
        /// Text as typed.
        given: String,
        /// The network it lies in.
        network: IpAddr,
        /// Prefix length of the pool.
        prefix_len: u8,
    },
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let (Some(address), Some(prefix), assign, None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PoolError::Shape(text.to_owned()));
        };
        let address: IpAddr = address.parse().map_err(|_| PoolError::Address(address.to_owned()))?;
        let (max, default_assign) = match address {
            IpAddr::V4(_) => (32, DEFAULT_ASSIGN_IPV4),
            IpAddr::V6(_) => (128, DEFAULT_ASSIGN_IPV6),
        };
        let prefix_len = length(prefix, max)?;
        let assign_len = match assign {
            Some(assign) => length(assign, max)?,
            None => default_assign.max(prefix_len),
        };
        if assign_len < prefix_len {
            return Err(PoolError::Assign { assign_len, prefix_len });
        }
        let network = truncate(address, prefix_len);
        if network != address {
            return Err(PoolError::HostBits { given: text.to_owned(), network, prefix_len });
        }
        let pool = Self { address, prefix_len, assign_len, shared: false };
        match unmapped(&pool.prefix()) {
            Some(prefix) => Err(PoolError::Mapped { given: text.to_owned(), prefix }),
            None => Ok(pool),
        }
    }
}

impl Pool {
    /// The prefix, without the block length.
    #[must_use]
    pub fn prefix(&self) -> IpNet {
        IpNet::new_assert(self.address, self.prefix_len)
    }

    /// Length of one subscriber's block as the data path counts it, out of 128.
    #[must_use]
    pub fn block_len(&self) -> u8 {
        if self.address.is_ipv4() { self.assign_len + MAPPED_LEN } else { self.assign_len }
    }
}

/// Bits in front of an IPv4 address where it is mapped into IPv6.
const MAPPED_LEN: u8 = 96;
/// The value of a prefix that is cut out of the one around it.
const CUT_OUT: u8 = 0;

/// Prefixes with a value each as the data path keys them: address with IPv4 mapped into IPv6, and prefix length out of
/// 128. An IPv6 prefix around all mapped addresses, such as `::/0`, holds no IPv4 address: those are cut out of it.
#[must_use]
pub fn keyed(prefixes: impl IntoIterator<Item = (IpNet, u8)>) -> Vec<(Address, u8, u8)> {
    let key = |(prefix, value)| match prefix {
        IpNet::V4(v4) => (Address::v4(v4.network().to_bits()), v4.prefix_len() + MAPPED_LEN, value),
        IpNet::V6(v6) => (Address::v6(v6.network().octets()), v6.prefix_len(), value),
    };
    let mut keyed: Vec<_> = prefixes.into_iter().map(key).collect();
    let all = Address::v4(0);
    let is_around = |(address, len, _): &(Address, u8, u8)| *len < MAPPED_LEN && all.block(*len) == *address;
    if keyed.iter().any(is_around) && !keyed.iter().any(|(address, len, _)| (*address, *len) == (all, MAPPED_LEN)) {
        keyed.push((all, MAPPED_LEN, CUT_OUT));
    }
    keyed
}

/// Pools with the block lengths of their subscribers, as [`keyed`] has them.
#[must_use]
pub fn keyed_pools(pools: &[Pool]) -> Vec<(Address, u8, u8)> {
    keyed(pools.iter().map(|pool| (pool.prefix(), pool.block_len())))
}

/// The IPv4 prefix of which an IPv6 prefix is the mapped form (RFC 4291 section 2.5.5.2). No packet has such an address
/// (RFC 6890 section 2.2.3), so whoever writes it means the IPv4 prefix.
#[must_use]
pub fn unmapped(prefix: &IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = prefix else { return None };
    let len = v6.prefix_len().checked_sub(MAPPED_LEN)?;
    let v4 = v6.network().to_ipv4_mapped()?;
    IpNet::new(v4.into(), len).ok()
}

/// The table in front of the pools ([`monitor_common::tables::pool_table`]) as words, for pools as [`keyed_pools`]
/// gives them.
#[must_use]
pub fn pool_words(pools: &[(Address, u8, u8)]) -> Vec<u64> {
    let mut cells = vec![0; pool_table::CELLS];
    pool_table::fill(&mut cells, pools);
    cells.as_chunks().0.iter().copied().map(u64::from_le_bytes).collect()
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.address, self.prefix_len, self.assign_len)
    }
}

/// A prefix length of at most `max` bits; digits only, since `u8::from_str` takes a sign.
fn length(text: &str, max: u8) -> Result<u8, PoolError> {
    text.parse()
        .ok()
        .filter(|length| *length <= max && text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| PoolError::Length { length: text.to_owned(), max })
}

/// The first address of the block of `prefix_len` bits that holds `address`.
fn truncate(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_both_families_with_and_without_a_block_length() {
        for (text, shown) in [
            ("10.0.0.0/8/32", "10.0.0.0/8/32"),
            ("10.0.0.0/8", "10.0.0.0/8/32"),
            ("100.64.0.0/10/24", "100.64.0.0/10/24"),
            ("0.0.0.0/0", "0.0.0.0/0/32"),
            ("2001:db8::/32/56", "2001:db8::/32/56"),
            ("2001:db8::/32", "2001:db8::/32/56"),
            ("2001:db8::/64", "2001:db8::/64/64"),
            ("::/0/64", "::/0/64"),
        ] {
            assert_eq!(text.parse::<Pool>().map(|pool| pool.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            ("10.0.0.0", "PREFIX[/ASSIGN]"),
            ("10.0.0.0/8/32/1", "PREFIX[/ASSIGN]"),
            ("", "PREFIX[/ASSIGN]"),
            ("ten/8", "not an IPv4 or IPv6 address"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/+8", "0 to 32"),
            ("2001:db8::/32/129", "0 to 128"),
            ("10.0.0.0/8/7", "cannot be larger"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
            ("::ffff:0:0/96/128", "write 0.0.0.0/0"),
        ] {
            let message = text.parse::<Pool>().expect_err(text).to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn ipv4_is_cut_out_of_an_ipv6_prefix_around_it() {
        let keyed = |texts: &[&str]| {
            let pools: Vec<Pool> = texts.iter().map(|text| text.parse().expect("a pool")).collect();
            keyed_pools(&pools)
        };
        let (all, cut) = ((Address::default(), 0, 56), (Address::v4(0), 96, CUT_OUT));
        assert_eq!(keyed(&["::/0"]), [all, cut]);
        assert_eq!(keyed(&["10.0.0.0/8", "::/0"]), [(Address::v4(10 << 24), 104, 128), all, cut]);
        assert_eq!(keyed(&["0.0.0.0/0", "::/0"]), [(Address::v4(0), 96, 128), all]);
        assert_eq!(keyed(&["2001:db8::/32"]).len(), 1);
        let ranges = keyed(&["::/80", "10.0.0.0/8"]);
        let words = pool_words(&ranges);
        let cell = |address| words[pool_table::cell(address) as usize / 8] >> (pool_table::cell(address) % 8 * 8) & 255;
        assert_eq!((cell(Address::v4(10 << 24)), cell(Address::v4(11 << 24))), (128, 0));
    }

    proptest! {
        #[test]
        fn text_never_panics_and_what_is_read_reads_again(text in "[0-9a-f:./+ -]{0,40}") {
            if let Ok(pool) = text.parse::<Pool>() {
                prop_assert_eq!(pool.to_string().parse::<Pool>(), Ok(pool));
            }
        }
    }
}
