//! Checks the hooks of a configuration.

use std::{collections::HashSet, path::PathBuf};

use super::Checker;
use crate::{
    config::raw::{Raw, RawHook},
    hooks::{HookConfig, Target, webhook::Endpoint},
    words::SubscriberForm,
};

pub(super) fn resolve(raw: &Raw, check: &mut Checker<'_>) -> Vec<HookConfig> {
    let mut seen = HashSet::new();
    raw.hooks.iter().enumerate().filter_map(|(index, hook)| one(index, hook, &mut seen, check)).collect()
}

fn one(index: usize, typed: &RawHook, seen: &mut HashSet<String>, check: &mut Checker<'_>) -> Option<HookConfig> {
    let at = |key: &str| format!("hooks[{index}].{key}");
    let name = check.name(&at("name"), &typed.name, seen);
    let target = match (&typed.exec, &typed.webhook) {
        (Some(command), None) => exec(index, command, typed, check),
        (None, Some(url)) => webhook(index, url, typed, check),
        (Some(_), Some(_)) => {
            check.problem(&at("webhook"), "a hook is either `exec` or `webhook`; make two hooks of it");
            None
        }
        (None, None) => {
            check.problem(&at("name"), "a hook needs `exec = [\"/path/to/program\"]` or `webhook = \"https://...\"`");
            None
        }
    };
    let is_exec = matches!(target, Some(Target::Exec { .. }));
    let retries = typed.retries.unwrap_or(if is_exec { 0 } else { 5 });
    let subscriber = typed.subscriber.unwrap_or(if is_exec { SubscriberForm::Both } else { SubscriberForm::Pseudonym });
    let timeout = check.span(&at("timeout"), typed.timeout.0);
    let retry_delay = check.span(&at("retry_delay"), typed.retry_delay.0);
    let queue = check.number(&at("queue"), typed.queue.into()) as usize;
    let concurrency = check.number(&at("concurrency"), typed.concurrency.into()) as usize;
    let retries = check.number(&at("retries"), retries.into()) as u32;
    Some(HookConfig { name, target: target?, subscriber, timeout, retries, retry_delay, queue, concurrency })
}

fn exec(index: usize, command: &[String], typed: &RawHook, check: &mut Checker<'_>) -> Option<Target> {
    let path = format!("hooks[{index}].exec");
    if !typed.headers.is_empty() || typed.ca_file.is_some() {
        check.problem(&path, "`headers` and `ca_file` belong to `webhook` hooks");
    }
    let Some((program, arguments)) = command.split_first() else {
        check.problem(&path, "the command is empty; write exec = [\"/path/to/program\", \"argument\"]");
        return None;
    };
    let program = PathBuf::from(program);
    if !program.is_absolute() {
        check.problem(&path, format!("`{}` is not an absolute path; start it with `/`", program.display()));
    }
    if command.iter().any(|part| part.contains('\0')) {
        check.problem(&path, "an argument cannot hold a NUL byte");
    }
    Some(Target::Exec { program, arguments: arguments.to_vec() })
}

fn webhook(index: usize, url: &str, typed: &RawHook, check: &mut Checker<'_>) -> Option<Target> {
    match Endpoint::new(url, &typed.headers, typed.ca_file.as_deref()) {
        Ok(endpoint) => Some(Target::Webhook(endpoint)),
        Err(problem) => {
            let key = match problem.key {
                Some(header) => format!("hooks[{index}].headers.{header}"),
                None => format!("hooks[{index}].webhook"),
            };
            check.problem(&key, problem.message);
            None
        }
    }
}
