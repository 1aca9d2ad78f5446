//! What becomes of events over the whole agent: cool-downs across a restart, the ceiling, a person's decisions.

use std::{path::Path, time::Duration};

use peertally_core::exit::{Exit, ExitCause};
use peertally_store::{
    events::{self, Decision, EventState},
    store::open_reader,
};

use super::{Seen, configuration, start};
use crate::{
    agent::reload::ReloadResult,
    config::{Overrides, Resolved},
    verbs::{reload, status},
};

/// Events in the store of a configuration, newest first: state and reason.
fn kept(directory: &Path) -> Vec<(EventState, String)> {
    let reader = open_reader(&directory.join("state")).expect("a store");
    events::list(&reader, None, 1000).expect("reads").into_iter().map(|event| (event.state, event.reason)).collect()
}

/// Attack A6: fire, restart, the same traffic. One letter within the cool-down; the twin without one gets more.
#[tokio::test(flavor = "multi_thread")]
async fn a_cool_down_survives_a_restart() {
    for (cool_down, expected) in [("1h", 1..=1), ("0s", 2..=1000)] {
        let directory = tempfile::tempdir().expect("directory");
        let out = directory.path().join("events");
        let more = format!(
            "[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\ncool_down = \"{cool_down}\"\nhooks = [\"save\"]\n\
             [[hooks]]\nname = \"save\"\nexec = [\"/bin/sh\", \"-c\", \"cat >> {0}; echo >> {0}\"]\n",
            out.display()
        );
        for _ in 0..2 {
            let running = start(configuration(directory.path(), &more), Seen { bytes: 300, ..Seen::default() }).await;
            let delivered =
                if expected == (1..=1) { "peertally_events{state=\"delivered\"} 1" } else { "_total{hook=\"save\"} 1" };
            running.wait_for("/metrics", delivered).await;
            // The traffic goes on: the threshold is reached again and again.
            let drains = running.seen.lock().expect("lock").drains;
            while running.seen.lock().expect("lock").drains < drains + 5 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            running.stop().await.0.expect("a clean end");
        }
        let text = std::fs::read_to_string(&out).expect("delivered");
        let letters = text.lines().filter(|line| line.contains("heavy")).count();
        assert!(expected.contains(&letters), "{letters} letters with cool_down = {cool_down}");
    }
}

/// Attack A5: thousands of subscribers reach a threshold at once. The twin: as many as the ceiling allows.
#[tokio::test(flavor = "multi_thread")]
async fn events_beyond_the_ceiling_are_held_with_an_alarm_and_a_person_decides() {
    for (subscribers, held) in [(300, 280), (20, 0)] {
        let directory = tempfile::tempdir().expect("directory");
        let out = directory.path().join("events");
        let more = format!(
            "[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\nhooks = [\"save\"]\n\
             [[hooks]]\nname = \"save\"\nexec = [\"/bin/sh\", \"-c\", \"cat >> {0}; echo >> {0}\"]\n",
            out.display()
        );
        let resolved = configuration(directory.path(), &more);
        let (socket, state_dir) = (resolved.control_socket.clone(), resolved.state_dir.clone());
        let running = start(resolved, Seen { bytes: 600, subscribers, ..Seen::default() }).await;
        running.wait_for("/metrics", "peertally_hook_deliveries_total{hook=\"save\"} 20").await;
        running.wait_for("/metrics", &format!("peertally_events{{state=\"held\"}} {held}")).await;
        running.wait_for("/metrics", &format!("events_held_total{{policy=\"heavy\",reason=\"ceiling\"}} {held}")).await;
        let (code, ready) = running.get("/readyz").await;
        assert_eq!((code, ready.contains(&format!("held: {held} events"))), (200, held > 0), "{ready}");
        let asked = socket.clone();
        let status =
            tokio::task::spawn_blocking(move || status::query(&asked)).await.expect("asked").expect("answered");
        assert_eq!(status::show(&status).contains("wait for a person"), held > 0);
        if held > 0 {
            // Held subscribers do not fire again, and a person lets one go.
            let reader = open_reader(&state_dir).expect("a store");
            let one = events::list(&reader, Some(EventState::Held), 1).expect("reads").remove(0).id;
            let asked = (state_dir.clone(), socket.clone(), one.clone());
            let decided = tokio::task::spawn_blocking(move || {
                crate::verbs::events::decide(&asked.0, &asked.1, Vec::new(), &asked.2, Decision::Release)
            });
            decided.await.expect("asked").expect("released");
            running.wait_for("/metrics", "peertally_hook_deliveries_total{hook=\"save\"} 21").await;
            let text = std::fs::read_to_string(&out).expect("delivered");
            assert_eq!(text.matches(&one).count(), 1);
        }
        running.stop().await.0.expect("a clean end");
        let kept = kept(directory.path());
        let count = |state| kept.iter().filter(|(each, _)| *each == state).count();
        let released = usize::from(held > 0);
        assert_eq!(count(EventState::Held), held - released);
        assert_eq!(count(EventState::Delivered), 20 + released);
        if held > 0 {
            // Without an agent, the decision is written to the store.
            let reader = open_reader(&state_dir).expect("a store");
            let one = events::list(&reader, Some(EventState::Held), 1).expect("reads").remove(0).id;
            drop(reader);
            crate::verbs::events::decide(&state_dir, &socket, Vec::new(), &one, Decision::Discard).expect("discarded");
            let again = crate::verbs::events::decide(&state_dir, &socket, Vec::new(), &one, Decision::Release);
            assert_eq!(again.expect_err("discarded").exit(), Exit::Usage);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_set_moves_no_window_and_no_cool_down() {
    // The twin has a clock that nobody sets: both give one event, and no alarm.
    for wall_jumps in [false, true] {
        let directory = tempfile::tempdir().expect("directory");
        // Five drains reach the threshold, and a cool-down of half an hour outlasts the test unless a clock ends it.
        let more = "[[policies]]\nname = \"heavy\"\nthreshold = 1500\nwindow = \"10m\"\ncool_down = \"30m\"\nhooks = [\"none\"]\n\
                    [[hooks]]\nname = \"none\"\nexec = [\"/bin/true\"]\n";
        let seen = Seen { bytes: 300, wall_jumps, ..Seen::default() };
        let running = start(configuration(directory.path(), more), seen).await;
        running.wait_for("/metrics", "peertally_hook_deliveries_total{hook=\"none\"} 1").await;
        let cooling = "peertally_policy_suppressed_total{policy=\"heavy\",reason=\"cool_down\"} 1";
        running.wait_for("/metrics", cooling).await;
        let (_, metrics) = running.get("/metrics").await;
        assert!(metrics.contains("peertally_policy_events_total{policy=\"heavy\",kind=\"fired\"} 1\n"), "{metrics}");
        for path in ["/livez", "/readyz"] {
            assert_eq!(running.get(path).await, (200, "ok\n".to_owned()), "{path}");
        }
        running.stop().await.0.expect("a clean end");
    }
}

/// The twin is a start that the kernel takes: it delivers what waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_delivers_nothing() {
    for fails in [true, false] {
        let directory = tempfile::tempdir().expect("directory");
        let out = directory.path().join("events");
        let policy = "[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\nhooks = [\"save\"]\n";
        let hook = |command: &str| {
            let exec = format!("exec = [\"/bin/sh\", \"-c\", \"{command}\"]\n");
            format!("{policy}[[hooks]]\nname = \"save\"\n{exec}")
        };
        let hanging = configuration(directory.path(), &hook("exec sleep 1000"));
        let running = start(hanging, Seen { bytes: 600, ..Seen::default() }).await;
        running.wait_for("/metrics", "peertally_hook_in_flight{hook=\"save\"} 1").await;
        running.stop().await.0.expect("a clean end");
        assert_eq!(kept(directory.path()), [(EventState::Queued, String::new())]);

        let saving = configuration(directory.path(), &hook(&format!("cat >> {}", out.display())));
        let delivered = out.clone();
        if fails {
            // The kernel takes as long as a delivery would.
            let refuse = move |_: &Resolved| {
                for _ in 0..200 {
                    if delivered.exists() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err::<super::Fake, _>(super::No(Exit::Unavailable))
            };
            super::serve(saving, refuse, std::future::pending(), None).await.expect_err("refused");
            assert_eq!(kept(directory.path()), [(EventState::Queued, String::new())]);
        } else {
            let running = start(saving, Seen::default()).await;
            running.wait_for("/metrics", "peertally_hook_deliveries_total{hook=\"save\"} 1").await;
            running.stop().await.0.expect("a clean end");
        }
        assert_eq!(out.exists(), !fails);
    }
}

/// The twin never had a cool-down worth the name, and fires again.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_a_reload_takes_out_and_puts_back_keeps_its_cool_downs() {
    for (cool_down, again) in [("1h", false), ("0s", true)] {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("p.toml");
        let hooks = "[[hooks]]\nname = \"none\"\nexec = [\"/bin/true\"]\n";
        let policy = format!(
            "[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\ncool_down = \"{cool_down}\"\nhooks = [\"none\"]\n"
        );
        let write = |policy: &str| {
            let text = super::configuration_text(directory.path()) + hooks + policy;
            std::fs::write(&file, text).expect("written");
        };
        write(&policy);
        let resolved = crate::config::load(Some(&file), &Overrides::default()).expect("valid");
        let socket = resolved.control_socket.clone();
        let running = start(resolved, Seen { bytes: 600, ..Seen::default() }).await;
        running.wait_for("/metrics", "peertally_events{state=\"delivered\"} 1").await;
        for text in ["", &policy] {
            write(text);
            let socket = socket.clone();
            let asked = tokio::task::spawn_blocking(move || reload::ask(&socket, false)).await.expect("asked");
            assert_eq!(asked.expect("answered").result, ReloadResult::Applied);
        }
        let next = if again {
            "peertally_policy_events_total{policy=\"heavy\",kind=\"fired\"} 1"
        } else {
            "peertally_policy_suppressed_total{policy=\"heavy\",reason=\"cool_down\"} 2"
        };
        running.wait_for("/metrics", next).await;
        let (_, metrics) = running.get("/metrics").await;
        let fired = !metrics.contains("peertally_policy_events_total{policy=\"heavy\",kind=\"fired\"} 0");
        running.stop().await.0.expect("a clean end");
        assert_eq!(fired, again, "cool_down = {cool_down}");
    }
}

/// The twin is a reload that is refused: the hooks of before go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_hooks_out_and_in_and_lets_running_deliveries_end() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let file = directory.path().join("p.toml");
    let policy = |hook: &str| {
        format!("[[policies]]\nname = \"heavy\"\nthreshold = 500\nwindow = \"1m\"\nhooks = [\"{hook}\"]\n")
    };
    let hook = |name: &str, script: &str| {
        format!("[[hooks]]\nname = \"{name}\"\nconcurrency = 1\nexec = [\"/bin/sh\", \"-c\", \"{script}\"]\n")
    };
    let write =
        |more: &str| std::fs::write(&file, super::configuration_text(directory.path()) + more).expect("written");
    let slow = format!("while [ ! -e {} ]; do sleep 0.01; done; cat >> {}", path("gate"), path("a"));
    write(&(policy("a") + &hook("a", &slow)));
    let resolved = crate::config::load(Some(&file), &Overrides::default()).expect("valid");
    let socket = resolved.control_socket.clone();
    let running = start(resolved, Seen { bytes: 600, subscribers: 2, ..Seen::default() }).await;
    running.wait_for("/metrics", "peertally_hook_in_flight{hook=\"a\"} 1").await;
    running.wait_for("/metrics", "peertally_hook_queued{hook=\"a\"} 1").await;
    let reload = || {
        let socket = socket.clone();
        async move {
            let asked = tokio::task::spawn_blocking(move || reload::ask(&socket, false)).await.expect("asked");
            asked.expect("answered")
        }
    };
    // The kernel refuses: the new hook is gone again, the old one goes on.
    write(&(policy("b") + &hook("b", &format!("cat >> {}", path("b")))));
    running.seen.lock().expect("lock").refuse = true;
    assert_eq!(reload().await.result, ReloadResult::Failed);
    running.wait_for("/metrics", "peertally_hook_in_flight{hook=\"a\"} 1").await;
    running.seen.lock().expect("lock").refuse = false;

    let report = reload().await;
    let mut changes: Vec<String> = report.changes.iter().map(ToString::to_string).collect();
    changes.sort();
    assert_eq!(
        (report.result, changes),
        (ReloadResult::Applied, vec!["+ hooks b".into(), "- hooks a".into(), "~ policies heavy".into()])
    );
    let metrics = running.wait_for("/metrics", "peertally_hook_in_flight{hook=\"b\"}").await;
    assert!(!metrics.contains("hook=\"a\""), "{metrics}");
    std::fs::write(path("gate"), "").expect("written");
    // One delivery of the old hook ends well, the other one fails. That subscriber fires again, for the new hook.
    running.wait_for("/metrics", "peertally_hook_removed_deliveries_total 1").await;
    running.wait_for("/metrics", "peertally_hook_deliveries_total{hook=\"b\"} 1").await;
    let states = kept(directory.path());
    let count = |state| states.iter().filter(|(each, _)| *each == state).count();
    assert_eq!((count(EventState::Dead), count(EventState::Delivered)), (1, 2));
    assert_eq!(std::fs::read_to_string(path("a")).expect("delivered").matches("\"fired\"").count(), 1);

    // Another program under the same name goes on with the counts.
    write(&(policy("b") + &hook("b", &format!("cat >> {}", path("c")))));
    running.seen.lock().expect("lock").subscribers = 3;
    let report = reload().await;
    assert_eq!((report.result, report.changes[0].to_string()), (ReloadResult::Applied, "~ hooks b".to_owned()));
    running.wait_for("/metrics", "peertally_hook_deliveries_total{hook=\"b\"} 2").await;
    running.stop().await.0.expect("a clean end");
}
