//! Values with a unit or a notation of their own. Each reads itself, so that TOML errors name the line.

use std::{fmt, str::FromStr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time span, written as `90s`, `10m`, `1h 30m`, `7days`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer, "a time with its unit, such as \"10s\" or \"1h 30m\"")?;
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            de::Error::custom(format!("`{text}` is not a time ({error}); write for example \"10s\", \"5m\" or \"1h\""))
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// An amount: a whole number, or bytes with a unit (`500 MB`, `10 GiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
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

impl FromStr for Quantity {
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

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or bytes with a unit such as \"10 GiB\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                let amount = u64::try_from(number).map_err(|_| E::custom("an amount cannot be negative"))?;
                Ok(Quantity { amount, in_bytes: false })
            }

            fn visit_u64<E: de::Error>(self, amount: u64) -> Result<Quantity, E> {
                Ok(Quantity { amount, in_bytes: false })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Quantity {
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

/// Reads a string, and says what was expected if it is none.
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

/// Names the values in the generated reference.
#[cfg(test)]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{Prefix, Quantity, Span};

    macro_rules! named {
        ($type:ty, $name:literal) => {
            impl JsonSchema for $type {
                fn inline_schema() -> bool {
                    true
                }
                fn schema_name() -> Cow<'static, str> {
                    $name.into()
                }
                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": $name })
                }
            }
        };
    }
    named!(Span, "duration");
    named!(Quantity, "amount");
    named!(Prefix, "prefix");
}
