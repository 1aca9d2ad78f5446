//! The keys that choose one of a few words. Each is read the same way from the file, a flag and the environment.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Declares an enum whose words are the same in TOML, on the command line, in metrics and in JSON.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, ValueEnum)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        pub enum $name {
            $($(#[$item_doc])* #[serde(rename = $word)] #[value(name = $word)] $item,)*
        }

        impl $name {
            /// The word, as written in configuration, metrics and JSON.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$item => $word,)* }
            }
        }
    };
}

choice! {
    /// Which side of the router an interface faces.
    Role {
        /// Towards subscribers.
        Access = "access",
        /// Towards the rest of the network.
        Core = "core",
    }
}

choice! {
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

choice! {
    /// How deep packets are looked into.
    Inspection {
        /// Addresses, ports and sizes only.
        Headers = "headers",
        /// Also protocol framing in the first payload bytes of a flow.
        Framing = "framing",
        /// Also yes or no for content hashes of notices received. Not available in this version.
        Watchlist = "watchlist",
    }
}

choice! {
    /// What the agent does with the attached program when it ends.
    OnExit {
        /// Leave it attached and counting; the next start takes over its counters.
        Leave = "leave",
        /// Detach it and remove its pins.
        Detach = "detach",
    }
}

choice! {
    /// How log lines are written to standard error.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

choice! {
    /// The least important log line that is written.
    LogLevel {
        /// What stops a function of the agent.
        Error = "error",
        /// What needs attention.
        Warn = "warn",
        /// What happens in normal operation.
        Info = "info",
        /// What a developer wants to see.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

choice! {
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

choice! {
    /// What a policy measures.
    Metric {
        /// IP bytes.
        Bytes = "bytes",
        /// IP packets.
        Packets = "packets",
        /// Flows; they have no direction.
        Flows = "flows",
    }
}

choice! {
    /// Whose packets a policy measures.
    PolicyDirection {
        /// What the subscriber sent.
        Up = "up",
        /// What the subscriber received.
        Down = "down",
        /// Both.
        Both = "both",
    }
}

choice! {
    /// How a hook is told which subscriber an event is about.
    SubscriberForm {
        /// A keyed pseudonym: meaningless without this node's key.
        Pseudonym = "pseudonym",
        /// The address block.
        Block = "block",
        /// Pseudonym and address block.
        Both = "both",
    }
}
