//! The contract of a hook kind: its configuration table, the target that a checked table describes, and delivery.
//!
//! A kind is one file in `kinds/` with a `KIND`, a configuration table that implements [`KindTable`] and [`ShortForm`],
//! a [`HookTarget`] and a [`Deliver`]. The list of kinds is in `config/raw/hook.rs`.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use peertally_core::words::SubscriberForm;

use super::failure::{Failure, FailureReason};

/// Facts about a kind.
#[derive(Debug, PartialEq, Eq)]
pub struct HookKind {
    /// Name of the configuration table.
    pub name: &'static str,
    /// Keys of the table. One that stands a table too high gets a message with its place.
    pub keys: &'static [&'static str],
    /// Description of a delivery, for the documentation.
    pub delivers: &'static str,
    /// How the subscriber is named unless the configuration says otherwise.
    pub subscriber: SubscriberForm,
    /// Attempts after the first unless the configuration says otherwise.
    pub retries: u32,
    /// Every reason that an attempt can fail for.
    pub reasons: &'static [FailureReason],
}

/// Reports a problem of a key, named within the kind's table.
pub type ReportProblem<'a> = dyn FnMut(&str, String) + 'a;

/// Configuration table of a hook kind, as typed.
pub trait KindTable {
    /// Checks the table. `None` follows a report that leaves nothing to call.
    fn check(&self, report: &mut ReportProblem<'_>) -> Option<Arc<dyn HookTarget>>;
}

/// A table that a single value can stand for, as `exec = ["/bin/true"]` stands for `exec.command = ["/bin/true"]`.
pub trait ShortForm: Sized {
    /// Type of the value, for error messages and the reference; `None` if there is no short form.
    const SHORT_FORM: Option<&'static str> = None;

    /// The table that a text stands for.
    fn from_text(_text: &str) -> Option<Self> {
        None
    }

    /// The table that a list stands for.
    fn from_list(_list: Vec<String>) -> Option<Self> {
        None
    }
}

/// A checked configuration of a kind.
pub trait HookTarget: fmt::Debug + Send + Sync {
    /// One line for people, without secrets.
    fn describe(&self) -> String;

    /// Whether others can read what is delivered on its way.
    fn is_readable_on_the_way(&self) -> bool {
        false
    }

    /// Prepares deliveries; contacts nobody.
    ///
    /// # Errors
    /// The missing part of this machine and the next step.
    fn open(&self) -> Result<Box<dyn Deliver>, String>;
}

/// An event on its way to a hook.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Event id: equal over all attempts.
    pub id: &'a str,
    /// What the event says: `fired` or `cleared`.
    pub kind: &'a str,
    /// Name of the policy.
    pub policy: &'a str,
    /// The event as JSON.
    pub body: &'a [u8],
}

/// Carries events out in one way.
pub trait Deliver: fmt::Debug + Send + Sync {
    /// Makes one attempt, which ends within `limit`.
    fn attempt<'a>(&'a self, message: Message<'a>, limit: Duration) -> BoxFuture<'a, Result<(), Failure>>;
}
