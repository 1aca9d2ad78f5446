//! What a reload changes: the difference between the configuration in force and another one, key by key.
//!
//! Pure. A key that a running agent cannot change is marked: then the reload is refused as a whole.

use std::{fmt, sync::Arc};

use ipnet::IpNet;
use peertally_core::{content_list::Watchlist, interface::Interface, policy::Policy, pool::Pool};
use serde::{Deserialize, Serialize};

use super::{Resolved, values::show_duration};

/// Keys that a reload applies; all others need a restart. A key stands for those below it, unless they are named.
const APPLIED: &[&str] = &[
    "interfaces",
    "subscribers",
    "tunnels",
    "watchlist_file",
    "heuristic",
    "shedding",
    "drain_interval",
    "metrics.top_k",
    "allow",
    "policies",
    "hooks",
];

/// Whether a reload applies the key with this path, such as `interfaces[].role`.
#[must_use]
pub fn is_applied(path: &str) -> bool {
    let is_at_or_above =
        |key: &&str| path.strip_prefix(*key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    APPLIED.iter().any(is_at_or_above)
}

/// What happened to an entry or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// There was none.
    Added,
    /// There is none any more.
    Removed,
    /// It is another one.
    Changed,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Change {
    /// The key, as `docs/configuration.md` has it.
    pub key: String,
    /// What happened.
    pub kind: ChangeKind,
    /// Name of the entry; empty for a single value.
    pub item: String,
    /// The value before and after, where it can be shown in few words.
    pub values: Option<(String, String)>,
    /// Whether a running agent cannot change it.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => '~',
        };
        write!(f, "{sign} {}", self.key)?;
        if !self.item.is_empty() {
            write!(f, " {}", self.item)?;
        }
        if let Some((before, after)) = &self.values {
            write!(f, ": {before} -> {after}")?;
        }
        if self.needs_restart { f.write_str(" (needs a restart)") } else { Ok(()) }
    }
}

/// Collects differences.
#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn push(&mut self, key: &str, kind: ChangeKind, item: String, values: Option<(String, String)>) {
        let needs_restart = !is_applied(key);
        self.0.push(Change { key: key.to_owned(), kind, item, values, needs_restart });
    }

    /// A single value.
    fn value<T: PartialEq>(&mut self, key: &str, before: &T, after: &T, show: impl Fn(&T) -> String) {
        if before != after {
            self.push(key, ChangeKind::Changed, String::new(), Some((show(before), show(after))));
        }
    }

    /// A single value that is not shown.
    fn hidden<T: PartialEq>(&mut self, key: &str, before: &T, after: &T) {
        if before != after {
            self.push(key, ChangeKind::Changed, String::new(), None);
        }
    }

    /// A list whose entries have names.
    fn list<T>(
        &mut self,
        key: &str,
        before: &[T],
        after: &[T],
        name: impl Fn(&T) -> String,
        mut changed: impl FnMut(&mut Self, &T, &T),
    ) {
        for old in before {
            match after.iter().find(|new| name(new) == name(old)) {
                None => self.push(key, ChangeKind::Removed, name(old), None),
                Some(new) => changed(self, old, new),
            }
        }
        for new in after.iter().filter(|new| !before.iter().any(|old| name(old) == name(new))) {
            self.push(key, ChangeKind::Added, name(new), None);
        }
    }

    /// A list of values.
    fn set<T: PartialEq>(&mut self, key: &str, before: &[T], after: &[T], name: impl Fn(&T) -> String) {
        self.list(key, before, after, name, |_, _, _| {});
    }
}

/// The differences, in the order of the keys. Empty if both are equal. The kernel's watchlist has `watchlist_room`
/// entries.
#[must_use]
pub fn between(before: &Resolved, after: &Resolved, watchlist_room: u32) -> Vec<Change> {
    let mut changes = Changes::default();
    interfaces(&mut changes, &before.interfaces, &after.interfaces);
    let (old, new) = (&before.datapath, &after.datapath);
    changes.list(
        "subscribers.pools",
        &old.pools,
        &new.pools,
        |pool| pool.prefix().to_string(),
        |changes, old, new| {
            if old != new {
                let show = |pool: &Pool| format!("/{}{}", pool.assign_len, if pool.shared { ", shared" } else { "" });
                let values = Some((show(old), show(new)));
                changes.push("subscribers.pools", ChangeKind::Changed, old.prefix().to_string(), values);
            }
        },
    );
    changes.set("tunnels.endpoints", &old.tunnel_endpoints, &new.tunnel_endpoints, ToString::to_string);
    changes.value("xdp_mode", &before.xdp_mode, &after.xdp_mode, |mode| format!("{mode:?}").to_lowercase());
    changes.value("listen", &before.listen, &after.listen, ToString::to_string);
    changes.value("inspection", &old.inspection, &new.inspection, |depth| depth.label().to_owned());
    watchlist(&mut changes, &old.watchlist, &new.watchlist, watchlist_room);
    changes.value("one_way", &old.one_way, &new.one_way, ToString::to_string);
    changes.hidden("heuristic", &old.heuristic, &new.heuristic);
    changes.hidden("capacity", &old.sizes, &new.sizes);
    changes.value("shedding", &old.shedding, &new.shedding, |shedding| {
        shedding.map_or_else(|| "off".to_owned(), |bound| format!("{} packets/s", bound.packets_per_second))
    });
    changes.value("drain_interval", &before.drain_interval, &after.drain_interval, |time| show_duration(*time));
    changes.value("tally_age", &before.tally_age, &after.tally_age, |time| show_duration(*time));
    changes.value("metrics.top_k", &before.top_k, &after.top_k, ToString::to_string);
    changes.value("metrics.subscribers", &before.subscriber_metrics, &after.subscriber_metrics, ToString::to_string);
    let records = |resolved: &Resolved| (resolved.rotation.file_bytes, resolved.rotation.files, resolved.hits_per_hour);
    changes.hidden("records", &records(before), &records(after));
    let bounds = |resolved: &Resolved| (resolved.datapath.record_bytes, resolved.verdict_records);
    changes.hidden("verdict_records", &bounds(before), &bounds(after));
    changes.value("node", &before.node, &after.node, ToString::to_string);
    changes.value("state_dir", &before.state_dir, &after.state_dir, |path| path.display().to_string());
    changes.value("control_socket", &before.control_socket, &after.control_socket, |path| path.display().to_string());
    changes.hidden("pseudonym_key_file", &before.pseudonym_key_file, &after.pseudonym_key_file);
    changes.hidden("pseudonym_rotation", &before.pseudonym_rotation, &after.pseudonym_rotation);
    changes.hidden("on_exit", &before.on_exit, &after.on_exit);
    changes.value("shutdown_grace", &before.shutdown_grace, &after.shutdown_grace, |time| show_duration(*time));
    changes.hidden("log", &before.log, &after.log);
    changes.hidden("events", &(&before.ceiling, before.keep_events), &(&after.ceiling, after.keep_events));
    changes.set("allow", &before.allow, &after.allow, ToString::to_string);
    changes.list(
        "policies",
        &before.policies,
        &after.policies,
        |policy| policy.name.to_string(),
        |changes, old, new| {
            // The common allow list, which comes first, is a change of its own.
            let own = |policy: &Policy, common: &[IpNet]| Policy {
                allow: policy.allow[common.len()..].to_vec(),
                hooks: Vec::new(),
                ..policy.clone()
            };
            // A policy names hooks by their places, which another hook may have now.
            let hooks = |policy: &Policy, all: &Resolved| -> Vec<Arc<str>> {
                policy.hooks.iter().filter_map(|hook| all.hooks.get(*hook)).map(|hook| Arc::clone(&hook.name)).collect()
            };
            if own(old, &before.allow) != own(new, &after.allow) || hooks(old, before) != hooks(new, after) {
                changes.push("policies", ChangeKind::Changed, old.name.to_string(), None);
            }
        },
    );
    changes.list(
        "hooks",
        &before.hook_digests,
        &after.hook_digests,
        |(name, _)| name.to_string(),
        |changes, old, new| {
            if old != new {
                changes.push("hooks", ChangeKind::Changed, old.0.to_string(), None);
            }
        },
    );
    let same_hooks = !changes.0.iter().any(|change| change.key == "hooks");
    if same_hooks && !before.hook_digests.iter().eq(&after.hook_digests) {
        // Policies name hooks by their places.
        changes.push("hooks", ChangeKind::Changed, "the order".to_owned(), None);
    }
    changes.0
}

fn interfaces(changes: &mut Changes, before: &[Interface], after: &[Interface]) {
    changes.list(
        "interfaces",
        before,
        after,
        |interface| interface.name.clone(),
        |changes, old, new| {
            let mut part = |key: &str, differs: bool| {
                if differs {
                    changes.push(&format!("interfaces[].{key}"), ChangeKind::Changed, old.name.clone(), None);
                }
            };
            part("role", old.role != new.role);
            part("realm", old.realm != new.realm);
            part("prefixes", old.prefixes != new.prefixes);
            part("vlans", old.vlans != new.vlans);
        },
    );
}

fn watchlist(changes: &mut Changes, old: &Watchlist, new: &Watchlist, room: u32) {
    if old.digest == new.digest {
        return;
    }
    let show = |count: usize| format!("{count} entries");
    changes.push("watchlist_file", ChangeKind::Changed, String::new(), Some((show(old.count()), show(new.count()))));
    // The map has the size of the start.
    if let (true, Some(last)) = (new.count() > room as usize, changes.0.last_mut()) {
        last.needs_restart = true;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Overrides;

    fn resolved(text: &str) -> Resolved {
        crate::config::parse(Path::new("p.toml"), text, &Overrides::default()).expect("valid")
    }

    fn shown(before: &str, after: &str) -> Vec<String> {
        between(&resolved(before), &resolved(after), 1024).iter().map(ToString::to_string).collect()
    }

    const POOL: &str = "[[subscribers.pools]]\nprefix = \"10.0.0.0/8\"\n";

    #[test]
    fn each_kind_of_change_is_named() {
        let policy = |threshold, allow| {
            format!("{allow}\n[[policies]]\nname = \"heavy\"\nthreshold = {threshold}\nwindow = \"1h\"\n")
        };
        let hook = |name: &str, program| format!("[[hooks]]\nname = \"{name}\"\nexec = [\"{program}\"]\n");
        for (before, after, expected) in [
            ("", "# a comment", vec![]),
            ("drain_interval = \"10s\"", "drain_interval = \"5s\"", vec!["~ drain_interval: 10s -> 5s"]),
            (POOL, &format!("{POOL}assign = 24\n"), vec!["~ subscribers.pools 10.0.0.0/8: /32 -> /24"]),
            (
                POOL,
                "[[subscribers.pools]]\nprefix = \"11.0.0.0/8\"\n",
                vec!["- subscribers.pools 10.0.0.0/8", "+ subscribers.pools 11.0.0.0/8"],
            ),
            ("", "one_way = true", vec!["~ one_way: false -> true (needs a restart)"]),
            ("", "interfaces = [{ name = \"eth9\" }]", vec!["+ interfaces eth9"]),
            (
                "interfaces = [{ name = \"eth9\" }]",
                "interfaces = [{ name = \"eth9\", role = \"core\" }]",
                vec!["~ interfaces[].role eth9"],
            ),
            (&policy(10, ""), &policy(20, ""), vec!["~ policies heavy"]),
            (&policy(10, ""), &policy(10, "allow = [\"10.0.0.1\"]"), vec!["+ allow 10.0.0.1/32"]),
            (&hook("a", "/bin/true"), &hook("a", "/bin/false"), vec!["~ hooks a"]),
            (
                "",
                "[metrics]\ntop_k = 3\nsubscribers = true",
                vec!["~ metrics.top_k: 50 -> 3", "~ metrics.subscribers: false -> true (needs a restart)"],
            ),
        ] {
            assert_eq!(shown(before, after), expected, "{before} / {after}");
        }
    }

    #[test]
    fn a_key_stands_for_those_below_it() {
        for (path, applied) in [
            ("subscribers.pools[].assign", true),
            ("interfaces[].role", true),
            ("interfaces[].name", true),
            ("metrics.top_k", true),
            ("metrics", false),
            ("allow", true),
            ("allowed", false),
        ] {
            assert_eq!(is_applied(path), applied, "{path}");
        }
    }

    #[test]
    fn a_longer_watchlist_than_there_is_room_for_needs_a_restart() {
        let with = |digest: &str, entries: u32| {
            let mut resolved = resolved("");
            let entries = entries as usize;
            let list = Watchlist {
                entries: vec![monitor_common::abi::watch::ContentHash::from_bytes(&[1; 20]); entries],
                lines: vec![1; entries],
                digest: digest.to_owned(),
            };
            resolved.datapath.watchlist = Arc::new(list);
            resolved
        };
        for (entries, restart) in [(1024, false), (1025, true)] {
            let changes = between(&with("a", 1), &with("b", entries), 1024);
            assert_eq!((changes.len(), changes[0].needs_restart), (1, restart), "{changes:?}");
        }
    }

    #[test]
    fn every_key_is_compared() {
        // Whoever adds a key also compares it in `between`.
        const COMPARED: [&str; 28] = [
            "interfaces",
            "subscribers",
            "tunnels",
            "xdp_mode",
            "listen",
            "inspection",
            "watchlist_file",
            "one_way",
            "heuristic",
            "capacity",
            "shedding",
            "drain_interval",
            "tally_age",
            "metrics",
            "records",
            "verdict_records",
            "events",
            "pseudonym_rotation",
            "node",
            "state_dir",
            "control_socket",
            "pseudonym_key_file",
            "on_exit",
            "shutdown_grace",
            "log",
            "allow",
            "policies",
            "hooks",
        ];
        let keys = serde_json::to_value(crate::config::raw::Raw::default()).expect("values");
        let keys: std::collections::BTreeSet<&str> =
            keys.as_object().expect("a table").keys().map(String::as_str).collect();
        assert_eq!(keys, std::collections::BTreeSet::from(COMPARED));
    }

    fn some_configuration() -> impl Strategy<Value = String> {
        (0_u8..3, 24_u8..28, any::<bool>(), 0_u8..3, 1_u64..3).prop_map(|(net, assign, core, policies, top)| {
            let role = if core { "core" } else { "access" };
            let mut text =
                format!("interfaces = [{{ name = \"eth0\", role = \"{role}\" }}]\nmetrics = {{ top_k = {top} }}\n");
            text += &format!("[[subscribers.pools]]\nprefix = \"10.{net}.0.0/16\"\nassign = {assign}\n");
            for policy in 0..policies {
                text += &format!("[[policies]]\nname = \"p{policy}\"\nthreshold = {assign}\nwindow = \"1h\"\n");
            }
            text
        })
    }

    proptest! {
        #[test]
        fn nothing_lies_between_equals_and_each_way_back_has_as_many_changes(
            one in some_configuration(), other in some_configuration(),
        ) {
            prop_assert!(shown(&one, &one).is_empty());
            let (forth, back) = (shown(&one, &other), shown(&other, &one));
            prop_assert_eq!(forth.len(), back.len());
            prop_assert_eq!(forth.is_empty(), one == other);
        }
    }
}
