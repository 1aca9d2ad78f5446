//! Words of the tables: what an event says, its state, the state of a delivery, a decision.

use rusqlite::{
    Result,
    types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef},
};

/// Declares an enum whose values are words in the tables.
macro_rules! words {
    ($(#[$doc:meta])* $Name:ident { $($(#[$value_doc:meta])* $Value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $Name { $($(#[$value_doc])* $Value,)* }

        impl $Name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$Value,)*];

            /// The word in the tables, in JSON and in metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$Value => $word,)* }
            }
        }

        impl ToSql for $Name {
            fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
                Ok(self.label().into())
            }
        }

        impl FromSql for $Name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let word = value.as_str()?;
                let found = Self::ALL.iter().copied().find(|each| each.label() == word);
                found.ok_or(rusqlite::types::FromSqlError::InvalidType)
            }
        }
    };
}

words! {
    /// What an event says.
    EventKind {
        /// The subscriber reached the threshold.
        Fired = "fired",
        /// The subscriber fell below the threshold again.
        Cleared = "cleared",
    }
}

words! {
    /// What became of an event.
    EventState {
        /// Waits for its first successful delivery.
        Queued = "queued",
        /// Waits for a person.
        Held = "held",
        /// A hook delivered it.
        Delivered = "delivered",
        /// Every hook failed.
        Dead = "dead",
        /// A person discarded it.
        Discarded = "discarded",
        /// Its policy has no hooks.
        Logged = "logged",
    }
}

words! {
    /// What became of an event at one hook.
    DeliveryState {
        /// Waits for the next attempt.
        Queued = "queued",
        /// The receiver has it.
        Delivered = "delivered",
        /// The last attempt failed.
        Failed = "failed",
    }
}

words! {
    /// Decision of a person about an event.
    Decision {
        /// Deliver a held event.
        Release = "release",
        /// Never deliver a held or dead event.
        Discard = "discard",
        /// Deliver again where the last attempt failed.
        Redeliver = "redeliver",
    }
}
