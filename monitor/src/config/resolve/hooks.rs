//! Checks the hooks of a configuration.

use std::{collections::HashSet, sync::Arc};

use super::Checker;
use crate::{
    config::raw::{Raw, RawHook},
    deliver::{
        HookConfig,
        kind::{HookKind, HookTarget},
    },
};

pub(super) fn resolve(raw: &Raw, check: &mut Checker<'_>) -> Vec<HookConfig> {
    let mut seen = HashSet::new();
    raw.hooks.iter().enumerate().filter_map(|(index, hook)| one(index, hook, &mut seen, check)).collect()
}

fn one(index: usize, typed: &RawHook, seen: &mut HashSet<String>, check: &mut Checker<'_>) -> Option<HookConfig> {
    let at = |key: &str| format!("hooks[{index}].{key}");
    let name = check.name(&at("name"), &typed.name, seen);
    let timeout = check.ranged(&at("timeout"), &typed.timeout);
    let retry_delay = check.ranged(&at("retry_delay"), &typed.retry_delay);
    let queue = check.ranged(&at("queue"), &typed.queue) as usize;
    let concurrency = check.ranged(&at("concurrency"), &typed.concurrency) as usize;
    let retries = typed.retries.map(|retries| check.ranged(&at("retries"), &retries) as u32);
    let (kind, target) = target(index, typed, check)?;
    Some(HookConfig {
        name,
        kind,
        target,
        subscriber: typed.subscriber.unwrap_or(kind.subscriber),
        timeout,
        retries: retries.unwrap_or(kind.retries),
        retry_delay,
        queue,
        concurrency,
    })
}

/// The one kind of a hook, with its checked table.
fn target(index: usize, typed: &RawHook, check: &mut Checker<'_>) -> Option<(&'static HookKind, Arc<dyn HookTarget>)> {
    let at = |key: &str| format!("hooks[{index}].{key}");
    match typed.kinds().as_slice() {
        [(kind, settings)] => {
            let mut report = |key: &str, message: String| check.problem(&at(&format!("{}.{key}", kind.name)), message);
            Some((kind, settings.check(&mut report)?))
        }
        [] => {
            let tables: Vec<String> = RawHook::KINDS.iter().map(|kind| format!("[hooks.{}]", kind.name)).collect();
            check.problem(
                &format!("hooks[{index}]"),
                format!("a hook needs a kind: one of the tables {}", tables.join(", ")),
            );
            None
        }
        [(first, _), (second, _), ..] => {
            let message =
                format!("a hook has one kind, not both `{}` and `{}`; make two hooks of it", first.name, second.name);
            check.problem(&at(second.name), message);
            None
        }
    }
}
