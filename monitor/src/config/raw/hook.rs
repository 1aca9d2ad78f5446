//! A `[[hooks]]` entry as typed: keys that every hook has, and one table that makes its kind.

use std::{fmt, marker::PhantomData};

use peertally_core::words::SubscriberForm;
use serde::{
    Deserialize, Deserializer,
    de::{self, value::SeqAccessDeserializer},
};

use crate::{
    config::values::{BoundedCount, DurationText, HOUR, from_map},
    deliver::kind::{HookKind, KindTable, ShortForm},
};

/// Declares [`RawHook`] with one optional table for each kind; `$kind` is a module of `deliver/kinds`.
macro_rules! hook_kinds {
    ($($kind:ident: $Table:ident,)*) => {
        /// A receiver of events: a name and exactly one of the tables below, which decides its kind.
        #[derive(Clone, Debug, Deserialize)]
        #[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct RawHook {
            /// Name in policies and metrics; letters, digits, `-`, `_` and `.`.
            #[cfg_attr(test, schemars(example = &"tell"))]
            pub name: String,
            /// How events name the subscriber. The default depends on the kind.
            #[serde(default)]
            #[cfg_attr(test, schemars(example = &"both"))]
            pub subscriber: Option<SubscriberForm>,
            /// Time limit of one attempt.
            #[serde(default = "ten_seconds")]
            pub timeout: DurationText<100, HOUR>,
            /// Attempts after the first. The default depends on the kind.
            #[serde(default)]
            #[cfg_attr(test, schemars(example = 0))]
            pub retries: Option<BoundedCount<0, 100>>,
            /// Wait before the second attempt; it doubles with each attempt up to five minutes, with jitter.
            #[serde(default = "one_second")]
            pub retry_delay: DurationText<10, HOUR>,
            /// Events that may wait for this hook; further events are held for a person.
            #[serde(default = "queue")]
            pub queue: BoundedCount<1, 100_000>,
            /// Concurrent deliveries.
            #[serde(default = "concurrency")]
            pub concurrency: BoundedCount<1, 256>,
            $(#[serde(default)] $kind: Option<ShortOrTable<crate::deliver::kinds::$kind::$Table>>,)*
        }

        impl RawHook {
            /// Every kind.
            pub const KINDS: &'static [&'static HookKind] = &[$(&crate::deliver::kinds::$kind::KIND,)*];

            /// The kinds that this entry has a table of.
            pub(crate) fn kinds(&self) -> Vec<(&'static HookKind, &dyn KindTable)> {
                let mut found: Vec<(&'static HookKind, &dyn KindTable)> = Vec::new();
                $(if let Some(table) = &self.$kind {
                    found.push((&crate::deliver::kinds::$kind::KIND, &table.0));
                })*
                found
            }
        }
    };
}

hook_kinds! {
    exec: ExecTable,
    webhook: WebhookTable,
}

fn ten_seconds() -> DurationText<100, HOUR> {
    DurationText::from_secs(10)
}
fn one_second() -> DurationText<10, HOUR> {
    DurationText::from_secs(1)
}
fn queue() -> BoundedCount<1, 100_000> {
    BoundedCount(1000)
}
fn concurrency() -> BoundedCount<1, 256> {
    BoundedCount(4)
}

/// The table of a kind, or its short form.
#[derive(Clone, Debug)]
struct ShortOrTable<T>(T);

impl<'de, T: Deserialize<'de> + ShortForm> Deserialize<'de> for ShortOrTable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + ShortForm> de::Visitor<'de> for Visitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match T::SHORT_FORM {
                    Some(short) => write!(f, "a table or a {short}"),
                    None => f.write_str("a table"),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).ok_or_else(|| E::invalid_type(de::Unexpected::Str(text), &self))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
                // A list of tables, from a header such as `[[hooks.exec]]`, fails at its first item. The list is wrong.
                let list = Vec::deserialize(SeqAccessDeserializer::new(list)).map_err(|error: A::Error| {
                    let is_table = error.to_string().starts_with("invalid type: map");
                    if is_table { de::Error::invalid_type(de::Unexpected::Seq, &self) } else { error }
                })?;
                T::from_list(list).ok_or_else(|| de::Error::invalid_type(de::Unexpected::Seq, &self))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
                from_map(table, &self)
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator};
    use serde::Serialize;

    use super::{ShortForm, ShortOrTable};

    impl<T: JsonSchema + ShortForm> JsonSchema for ShortOrTable<T> {
        fn inline_schema() -> bool {
            true
        }
        fn schema_name() -> Cow<'static, str> {
            T::schema_name()
        }
        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let mut schema = T::json_schema(generator);
            if let Some(short) = T::SHORT_FORM {
                schema.insert("x-short-form".to_owned(), short.into());
            }
            schema
        }
    }

    impl<T: Serialize> Serialize for ShortOrTable<T> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }
}
