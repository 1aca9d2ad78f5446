//! Types and numbers that kernel and agent share: keys, tallies, settings, events, labels, limits. No logic beyond
//! packing and keyed hashes.

/// Declares an enum from one table: number, label. Numbers index a BPF map.
macro_rules! labelled_numbers {
    ($(#[$attribute:meta])* $enum:ident: $($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        $(#[$attribute])*
        #[repr(u8)]
        pub enum $enum { $($(#[$doc])* $name = $number,)* }

        impl $enum {
            /// Every value, in number order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label value used in metrics and output.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// The value of a number read from a map.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

pub mod event;
pub mod interface;
pub mod key;
pub mod limits;
pub mod outcome;
pub mod protocol;
pub mod reason;
pub mod record;
pub mod remotes;
pub mod rule;
pub mod settings;
pub mod spoofing;
pub mod stage;
pub mod tally;
pub mod vlan;
pub mod watch;
