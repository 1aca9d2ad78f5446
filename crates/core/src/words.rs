//! Settings that take one of a few words. The file, flags, environment, metrics and JSON all use these words.
//!
//! This module knows no command line and no file format: whoever offers a word as a flag builds on `FromStr` and
//! `WORDS`.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Text that is none of the words of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// The text.
    pub text: String,
    /// Every word of the setting.
    pub known: Vec<&'static str>,
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not one of {}", self.text, self.known.join(", "))
    }
}

impl Error for UnknownWord {}

/// Declares an enum with one word for each value.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $meaning:literal])* $item:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum $name {
            $($(#[doc = $meaning])* #[serde(rename = $word)] $item,)*
        }

        impl $name {
            /// Every word with its meaning.
            pub const WORDS: &'static [(&'static str, &'static str)] = &[$(($word, concat!($($meaning,)*)),)*];

            /// The word of a value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$item => $word,)* }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$item),)*
                    _ => Err(UnknownWord { text: text.to_owned(), known: vec![$($word,)*] }),
                }
            }
        }
    };
}

words! {
    /// Which side of the router an interface faces.
    Role {
        /// Towards subscribers.
        Access = "access",
        /// Towards the rest of the network.
        Core = "core",
    }
}

words! {
    /// How the XDP program is attached.
    XdpMode {
        /// In the driver; an error where the driver cannot.
        Native = "native",
        /// In the network stack, on any interface; slower.
        Generic = "generic",
        /// Native where the driver can, else generic; the mode in use is a metric.
        Auto = "auto",
    }
}

words! {
    /// Whether the program stays attached when the agent ends.
    OnExit {
        /// Leave it attached and counting; the next start takes over its counters.
        Leave = "leave",
        /// Detach it and remove its pins.
        Detach = "detach",
    }
}

words! {
    /// How log lines are written to standard error.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

words! {
    /// Lowest level that is logged.
    LogLevel {
        /// Errors that stop a function of the agent.
        Error = "error",
        /// Events that need attention.
        Warn = "warn",
        /// Events of normal operation.
        Info = "info",
        /// Details for developers.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// Log messages of the XDP program about rare events.
    KernelLog {
        /// None: the calls are not even in the verified program.
        Off = "off",
        /// Rare events.
        Info = "info",
        /// Rare events with detail.
        Debug = "debug",
    }
}

words! {
    /// Quantity that a policy measures.
    Metric {
        /// IP bytes.
        Bytes = "bytes",
        /// IP packets.
        Packets = "packets",
        /// Flows; they have no direction.
        Flows = "flows",
    }
}

words! {
    /// Direction that a policy measures.
    PolicyDirection {
        /// Traffic that the subscriber sent.
        Up = "up",
        /// Traffic that the subscriber received.
        Down = "down",
        /// Both.
        Both = "both",
    }
}

words! {
    /// What a subscriber is charged on; metrics, events and rows of watchlist hits name it.
    Evidence {
        /// Packets of both sides, and a proof that a sender who sees no answers cannot give.
        Answered = "answered",
        /// Packets alone, of a router that sees one direction. Anybody can send them, so this is the weaker evidence.
        OneWay = "one_way",
    }
}

impl Evidence {
    /// The evidence on a router with or without the setting `one_way`.
    #[must_use]
    pub const fn of(one_way: bool) -> Self {
        if one_way { Self::OneWay } else { Self::Answered }
    }
}

words! {
    /// How an event for a hook names its subscriber.
    SubscriberForm {
        /// A keyed pseudonym: meaningless without this node's key.
        Pseudonym = "pseudonym",
        /// The address block.
        Block = "block",
        /// Pseudonym and address block.
        Both = "both",
    }
}
