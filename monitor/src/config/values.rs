//! Values with a unit or a notation of their own. Each reads itself, so that TOML errors name the line.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use ipnet::IpNet;
use monitor_common::abi::settings::InspectionDepth;
use peertally_core::{pool::unmapped, vlan::VlanIds};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds of a second.
pub const SECOND: u64 = 1_000;
/// Milliseconds of an hour.
pub const HOUR: u64 = 3_600 * SECOND;
/// Milliseconds of a day.
pub const DAY: u64 = 24 * HOUR;
/// The greatest integer of TOML; the policy engine keeps `u64::MAX` for "no threshold".
const UNLIMITED: u64 = i64::MAX as u64;

/// A time span for people. Unlike humantime it counts whole days: `31 days`, not `1month 13h 26m 24s`.
pub(crate) fn show_duration(span: Duration) -> String {
    const SECONDS_PER_DAY: u64 = DAY / SECOND;
    let days = span.as_secs() / SECONDS_PER_DAY;
    let rest = span.saturating_sub(Duration::from_secs(days * SECONDS_PER_DAY));
    let unit = if days == 1 { "day" } else { "days" };
    match (days, rest.is_zero()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (_, true) => format!("{days} {unit}"),
        (_, false) => format!("{days} {unit} {}", humantime::format_duration(rest)),
    }
}

/// The range of a value, both ends included.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Least value.
    pub min: u64,
    /// Greatest value.
    pub max: u64,
    /// Whether the values are milliseconds.
    pub is_duration: bool,
}

impl Range {
    fn show(self, value: u64) -> String {
        if self.is_duration { show_duration(Duration::from_millis(value)) } else { value.to_string() }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.max == UNLIMITED {
            return write!(f, "at least {}", self.show(self.min));
        }
        write!(f, "{} to {}", self.show(self.min), self.show(self.max))
    }
}

/// A value with a range. The range is checked when a configuration is resolved, so that all mistakes of a file are
/// reported at once. The reference prints it.
pub trait Ranged {
    /// The range.
    const RANGE: Range;
    /// The value that the configuration is resolved to.
    type Value;

    /// The resolved value.
    fn value(&self) -> Self::Value;

    /// The number that the range applies to.
    fn number(&self) -> u64;

    /// The message for a number out of range.
    fn fault(&self) -> Option<String> {
        let (number, range) = (self.number(), Self::RANGE);
        let is_inside = range.min <= number && number <= range.max;
        (!is_inside).then(|| format!("{} is out of range; allowed: {range}", range.show(number)))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct BoundedCount<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Ranged for BoundedCount<MIN, MAX> {
    const RANGE: Range = Range { min: MIN, max: MAX, is_duration: false };
    type Value = u64;

    fn value(&self) -> u64 {
        self.0
    }

    fn number(&self) -> u64 {
        self.0
    }
}

/// A time span of `MIN` to `MAX` milliseconds, written as `90s`, `10m`, `1h 30m`, `7days`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationText<const MIN: u64, const MAX: u64>(pub Duration);

impl<const MIN: u64, const MAX: u64> DurationText<MIN, MAX> {
    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl<const MIN: u64, const MAX: u64> Ranged for DurationText<MIN, MAX> {
    const RANGE: Range = Range { min: MIN, max: MAX, is_duration: true };
    type Value = Duration;

    fn value(&self) -> Duration {
        self.0
    }

    fn number(&self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for DurationText<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer, "a time with its unit, such as \"10s\" or \"1h 30m\"")?;
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            de::Error::custom(format!("`{text}` is not a time ({error}); write for example \"10s\", \"5m\" or \"1h\""))
        })
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for DurationText<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&show_duration(self.0))
    }
}

/// An amount: a whole number, or bytes with a unit (`500 MB`, `10 GiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// The amount, in bytes, packets or flows.
    pub amount: u64,
    /// Whether it was written with a unit of bytes.
    pub in_bytes: bool,
}

/// Units of bytes: SI and IEC 80000-13.
const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl Ranged for Amount {
    const RANGE: Range = Range { min: 1, max: UNLIMITED, is_duration: false };
    type Value = u64;

    fn value(&self) -> u64 {
        self.amount
    }

    fn number(&self) -> u64 {
        self.amount
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.trim().len());
        let (number, unit) = text.trim().split_at(digits);
        let number: u64 = number.replace('_', "").parse().map_err(|_| {
            format!("`{text}` is not an amount; write a whole number, with a unit if it is bytes: 1000000, \"500 MB\", \"10 GiB\"")
        })?;
        let unit = unit.trim();
        if unit.is_empty() {
            return Ok(Self { amount: number, in_bytes: false });
        }
        let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(|| {
            format!("`{unit}` is not a unit of bytes; use one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB")
        })?;
        let amount = number.checked_mul(*factor).ok_or_else(|| format!("`{text}` is more than 64 bits can count"))?;
        Ok(Self { amount, in_bytes: true })
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or bytes with a unit such as \"10 GiB\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                let amount = u64::try_from(number).map_err(|_| E::custom("an amount cannot be negative"))?;
                Ok(Amount { amount, in_bytes: false })
            }

            fn visit_u64<E: de::Error>(self, amount: u64) -> Result<Amount, E> {
                Ok(Amount { amount, in_bytes: false })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.amount)
    }
}

/// An address or a prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(pub IpNet);

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: IpNet = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).map_err(|_| {
            format!("`{text}` is not an address or prefix; write for example 192.0.2.7 or 2001:db8::/32")
        })?;
        if net.trunc() != net {
            return Err(format!("`{text}` has bits set after its prefix; write {}", net.trunc()));
        }
        if let Some(prefix) = unmapped(&net) {
            return Err(format!("`{text}` is of IPv4-mapped addresses, which no IPv6 packet has; write {prefix}"));
        }
        Ok(Self(net))
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer, "an address or prefix such as \"192.0.2.0/24\"")?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A VLAN, or a range of them: `100`, `"100-199"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanText(pub VlanIds);

/// The VLANs that a frame may have (IEEE 802.1Q: 0 is no VLAN, 4095 is reserved).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

impl FromStr for VlanText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let id = |text: &str| text.trim().parse::<u16>().ok().filter(|id| VLANS.contains(id));
        match (id(first), id(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(VlanIds(first..=last))),
            _ => Err(format!("`{text}` is not a VLAN or a range; write for example 100 or \"100-199\", of 1 to 4094")),
        }
    }
}

impl<'de> Deserialize<'de> for VlanText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = VlanText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VLAN such as 100, or a range such as \"100-199\"")
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<VlanText, E> {
                id.to_string().parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<VlanText, E> {
                id.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VlanText, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for VlanText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// An inspection depth, written as its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DepthText(pub InspectionDepth);

impl<'de> Deserialize<'de> for DepthText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer, "an inspection depth such as \"framing\"")?;
        let found = InspectionDepth::ALL.iter().find(|depth| depth.label() == text);
        found.copied().map(Self).ok_or_else(|| {
            let labels: Vec<String> = InspectionDepth::ALL.iter().map(|depth| format!("`{}`", depth.label())).collect();
            // The form of serde, which the messages of the configuration extend with a suggestion.
            de::Error::custom(format!("unknown variant `{text}`, expected one of {}", labels.join(", ")))
        })
    }
}

impl Serialize for DepthText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.label())
    }
}

/// Reads a string; the error for another type names the expected form.
struct Text;

impl Text {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D, expected: &'static str) -> Result<String, D::Error> {
        struct Visitor(&'static str);
        impl de::Visitor<'_> for Visitor {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }
        }
        deserializer.deserialize_str(Visitor(expected))
    }
}

/// Reads a table, and refuses a list. A derived type would accept the values of its keys by position.
pub(super) fn table<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Table::deserialize(deserializer).map(|table| table.0)
}

/// As [`table`], for each item of a list.
pub(in crate::config) fn tables<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Vec::deserialize(deserializer).map(|tables: Vec<Table<T>>| tables.into_iter().map(|table| table.0).collect())
}

/// A table, unless it stands for a date: the TOML parser makes a table with one key of a private name of it.
pub(super) fn from_map<'de, A, T>(table: A, expected: &dyn de::Expected) -> Result<T, A::Error>
where
    A: de::MapAccess<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(de::value::MapAccessDeserializer::new(table)).map_err(|error| {
        let is_date = error.to_string().contains("`$__toml_private_datetime`");
        if is_date { de::Error::invalid_type(de::Unexpected::Map, expected) } else { error }
    })
}

struct Table<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
                from_map(table, &self)
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData)).map(Self)
    }
}

/// Names the values in the generated reference.
#[cfg(test)]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{Amount, BoundedCount, DepthText, DurationText, InspectionDepth, Prefix, Ranged as _, VlanText};

    /// A schema with the name of a type for the reference, and the range if there is one.
    macro_rules! named {
        ([$($generics:tt)*] $type:ty, $name:literal $(, $range:expr)?) => {
            impl $($generics)* JsonSchema for $type {
                fn inline_schema() -> bool {
                    true
                }
                fn schema_name() -> Cow<'static, str> {
                    $name.into()
                }
                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": $name $(, "x-range": $range.to_string())? })
                }
            }
        };
    }
    named!([<const MIN: u64, const MAX: u64>] BoundedCount<MIN, MAX>, "integer", Self::RANGE);
    named!([<const MIN: u64, const MAX: u64>] DurationText<MIN, MAX>, "duration", Self::RANGE);
    named!([] Amount, "amount", Self::RANGE);
    named!([] Prefix, "prefix");
    named!([] VlanText, "VLAN or range", "1 to 4094");

    impl JsonSchema for DepthText {
        fn inline_schema() -> bool {
            true
        }
        fn schema_name() -> Cow<'static, str> {
            "depth".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            let labels: Vec<_> =
                InspectionDepth::ALL.iter().map(|depth| json_schema!({ "const": depth.label() })).collect();
            json_schema!({ "oneOf": labels })
        }
    }
}
