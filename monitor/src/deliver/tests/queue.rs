//! What waits in the store, what ends there, and decisions of people.

use peertally_store::rusqlite::Transaction;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_hanging_hook_wait_in_the_store_and_the_next_start_delivers_them() {
    let mut config = shell("sleep 1000");
    (config.queue, config.concurrency, config.timeout) = (3, 1, Duration::from_secs(60));
    let dispatcher = Dispatcher::start(&[config]).expect("started");
    let sent: Vec<_> = (0..3).map(|_| event()).collect();
    sent.iter().for_each(|event| dispatcher.send(0, event));
    until(|| dispatcher.stats()[0].report().in_flight == 1).await;
    let report = dispatcher.stats()[0].report();
    assert_eq!((report.in_flight, report.queued, dispatcher.stats()[0].room()), (1, 2, 0));
    assert!(report.oldest.is_some());
    assert_eq!(report.accepted(), 3);
    let folder = dispatcher.finish(Duration::from_millis(100)).await;

    let out = folder.path().join("out");
    let config = shell(&format!("cat >> {0}; echo >> {0}", out.display()));
    let dispatcher = Dispatcher::start_in(folder, &[config]).expect("started");
    assert_eq!(settled(&dispatcher).await.delivered, 3);
    let text = std::fs::read_to_string(&out).expect("delivered");
    for event in &sent {
        assert_eq!(text.matches(&event.id.to_string()).count(), 1, "with the id of before, once");
        assert_eq!(dispatcher.state(event), EventState::Delivered);
    }
    let folder = dispatcher.finish(Duration::ZERO).await;
    // What was delivered is not delivered again.
    let dispatcher = Dispatcher::start_in(folder, &[shell("exit 1")]).expect("started");
    assert_eq!(dispatcher.stats()[0].report().waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cool_down_begins_with_the_first_delivery_by_any_hook_and_never_without_one() {
    let (mut good, mut bad) = (shell("cat > /dev/null"), shell("exit 1"));
    (good.name, bad.name) = ("good".into(), "bad".into());
    let dispatcher = Dispatcher::start(&[good, bad]).expect("started");
    let (both, none) = (event(), event_of("10.0.0.2", Evidence::Answered));
    dispatcher.add(&both, &["good", "bad"], EventState::Queued);
    dispatcher.add(&none, &["bad"], EventState::Queued);
    until(|| dispatcher.state(&both) == EventState::Delivered && dispatcher.state(&none) == EventState::Dead).await;
    let mut standings = Vec::new();
    until(|| {
        standings.extend(dispatcher.book.take_settled().into_iter().map(|(_, standing)| standing));
        standings.len() == 2
    })
    .await;
    assert!(standings.contains(&None), "the dead one may fire again");
    // A dead event ends no cool-down that another event of the subscriber began.
    let late = event();
    dispatcher.add(&late, &["bad"], EventState::Queued);
    until(|| {
        standings.extend(dispatcher.book.take_settled().into_iter().map(|(_, standing)| standing));
        standings.len() == 3
    })
    .await;
    assert!(matches!(standings[2], Some(Standing::Cooling(_))), "{standings:?}");
    assert!(standings.iter().any(|standing| matches!(standing, Some(Standing::Cooling(_)))));
    assert_eq!(dispatcher.book.standings().expect("reads").len(), 1, "one cool-down, and nothing waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_decides_about_held_and_dead_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let gate = folder.path().join("open");
    let dispatcher = Dispatcher::start_in(folder, &[shell(&format!("cat > /dev/null; test -e {}", gate.display()))])
        .expect("started");
    let (released, discarded) = (event(), event());
    dispatcher.add(&released, &["h"], EventState::Held);
    dispatcher.add(&discarded, &["h"], EventState::Held);
    let book = Arc::clone(&dispatcher.book);
    let decide = |event: &PolicyEvent, decision| {
        let (book, id) = (Arc::clone(&book), event.id.to_string());
        async move {
            let decided = tokio::task::spawn_blocking(move || book.decide(&id, decision, "tester")).await;
            decided.expect("no panic").map(|_| ()).map_err(|error| error.to_string())
        }
    };
    assert_eq!(dispatcher.stats()[0].report().waiting(), 0, "held events wait for nobody's hook");
    let refused = decide(&released, Decision::Redeliver).await.expect_err("nothing failed");
    assert!(refused.contains("is held"), "{refused}");
    decide(&released, Decision::Release).await.expect("released");
    until(|| dispatcher.state(&released) == EventState::Dead).await;
    std::fs::write(&gate, "").expect("written");
    decide(&released, Decision::Redeliver).await.expect("again");
    until(|| dispatcher.state(&released) == EventState::Delivered).await;
    decide(&released, Decision::Release).await.expect_err("delivered");
    decide(&released, Decision::Redeliver).await.expect_err("no hook failed");
    decide(&discarded, Decision::Discard).await.expect("discarded");
    assert_eq!(dispatcher.state(&discarded), EventState::Discarded);
    decide(&discarded, Decision::Release).await.expect_err("discarded");
    let report = settled(&dispatcher).await;
    assert_eq!((report.delivered, failed(&report, EXIT_STATUS)), (1, 1));
    let unknown = decide(&event(), Decision::Discard).await.expect_err("unknown");
    assert!(unknown.contains("there is no event"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_hook_is_not_configured_any_more_is_dead() {
    let mut config = shell("sleep 1000");
    config.timeout = Duration::from_secs(60);
    let dispatcher = Dispatcher::start(&[config]).expect("started");
    let waiting = event();
    dispatcher.send(0, &waiting);
    let folder = dispatcher.finish(Duration::ZERO).await;
    let mut other = shell("true");
    other.name = "other".into();
    let dispatcher = Dispatcher::start_in(folder, &[other]).expect("started");
    assert_eq!(dispatcher.state(&waiting), EventState::Dead);
    assert!(dispatcher.book.standings().expect("reads").is_empty(), "the subscriber may fire again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_hook_does_not_delay_another() {
    let mut hanging = shell("sleep 1000");
    hanging.name = "hanging".into();
    let dispatcher = Dispatcher::start(&[(shell("cat > /dev/null")), hanging]).expect("started");
    for _ in 0..5 {
        dispatcher.send(1, &event());
        dispatcher.send(0, &event());
    }
    assert_eq!(settled(&dispatcher).await.delivered, 5);
    dispatcher.finish(Duration::ZERO).await;
}

/// Decides as `peertally events` does.
async fn decide(dispatcher: &Dispatcher, event: &PolicyEvent, decision: Decision) -> Result<(), String> {
    let (book, id) = (Arc::clone(&dispatcher.book), event.id.to_string());
    let decided = tokio::task::spawn_blocking(move || book.decide(&id, decision, "tester")).await;
    decided.expect("no panic").map(|_| ()).map_err(|error| error.to_string())
}

/// Standing of the events' subscriber after everything that the policies were told.
fn standing(dispatcher: &Dispatcher, before: Option<Standing>) -> Option<Standing> {
    dispatcher.book.take_settled().into_iter().fold(before, |_, (_, standing)| standing)
}

/// The twin is a dead event: its subscriber waits for the delivery, and cools down from it on.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_event_that_is_delivered_again_leaves_nothing_that_waits() {
    for is_dead in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let gate = folder.path().join("open");
        let (mut good, mut bad) = (shell("cat > /dev/null"), shell(&format!("test -e {}", gate.display())));
        (good.name, bad.name) = ("good".into(), "bad".into());
        let dispatcher = Dispatcher::start_in(folder, &[good, bad]).expect("started");
        let event = event();
        let hooks: &[&str] = if is_dead { &["bad"] } else { &["good", "bad"] };
        dispatcher.add(&event, hooks, EventState::Queued);
        let failures = || failed(&dispatcher.stats()[1].report(), EXIT_STATUS);
        let ended = if is_dead { EventState::Dead } else { EventState::Delivered };
        until(|| failures() == 1 && dispatcher.state(&event) == ended).await;
        let before = standing(&dispatcher, None);
        assert_eq!(before.is_some(), !is_dead, "{before:?}");

        // The receiver fails once more, then it works.
        decide(&dispatcher, &event, Decision::Redeliver).await.expect("redelivered");
        assert_eq!(standing(&dispatcher, before), if is_dead { Some(Standing::Pending) } else { before });
        until(|| failures() == 2 && dispatcher.state(&event) == ended).await;
        let before = standing(&dispatcher, before);
        assert_eq!(before.is_some(), !is_dead, "{before:?}");
        std::fs::write(&gate, "").expect("written");
        decide(&dispatcher, &event, Decision::Redeliver).await.expect("redelivered");
        until(|| dispatcher.stats()[1].report().delivered == 1 && dispatcher.state(&event) == EventState::Delivered)
            .await;
        let after = standing(&dispatcher, before);
        assert!(matches!(after, Some(Standing::Cooling(_))), "{after:?}");
        let stored = dispatcher.book.standings().expect("reads");
        assert!(matches!(stored[..], [(_, Some(Standing::Cooling(_)))]), "{stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_hook_that_is_configured_is_not_released_and_can_be_discarded() {
    let dispatcher = Dispatcher::start(&[shell("exit 1")]).expect("started");
    let (held, dead) = (event(), event());
    dispatcher.add(&held, &["h"], EventState::Held);
    dispatcher.add(&dead, &["h"], EventState::Queued);
    until(|| dispatcher.state(&dead) == EventState::Dead).await;
    let folder = dispatcher.finish(Duration::from_secs(10)).await;

    let mut other = shell("true");
    other.name = "other".into();
    let dispatcher = Dispatcher::start_in(folder, &[other]).expect("started");
    for (event, decision, state) in
        [(&held, Decision::Release, EventState::Held), (&dead, Decision::Redeliver, EventState::Dead)]
    {
        let refused = decide(&dispatcher, event, decision).await.expect_err("nobody to deliver to");
        assert!(refused.contains("(h)") && refused.contains("discard"), "{refused}");
        assert_eq!(dispatcher.state(event), state);
    }
    let folder = dispatcher.finish(Duration::ZERO).await;

    // The twin: the hook is back, and gets both.
    let dispatcher = Dispatcher::start_in(folder, &[shell("cat > /dev/null")]).expect("started");
    decide(&dispatcher, &held, Decision::Release).await.expect("released");
    decide(&dispatcher, &dead, Decision::Redeliver).await.expect("redelivered");
    until(|| [&held, &dead].iter().all(|event| dispatcher.state(event) == EventState::Delivered)).await;
    let gone = event();
    dispatcher.add(&gone, &["other"], EventState::Held);
    decide(&dispatcher, &gone, Decision::Discard).await.expect("discarded");
    assert_eq!(dispatcher.state(&gone), EventState::Discarded);
}

/// An older version released such events: they waited for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_queued_event_without_a_delivery_that_waits_is_dead_at_the_next_start() {
    let dispatcher = Dispatcher::start(&[shell("cat > /dev/null")]).expect("started");
    let (stranded, waits) = (event(), event());
    dispatcher.add(&stranded, &["h"], EventState::Held);
    dispatcher.add(&waits, &["h"], EventState::Held);
    let id = stranded.id.to_string();
    let strand = move |transaction: &Transaction<'_>| {
        transaction.execute("UPDATE deliveries SET state = 'failed' WHERE event = ?1", [&id])?;
        transaction.execute("UPDATE events SET state = 'queued'", [])
    };
    dispatcher.book.store().writer().write(strand).expect("commits");
    let folder = dispatcher.finish(Duration::ZERO).await;
    let dispatcher = Dispatcher::start_in(folder, &[shell("cat > /dev/null")]).expect("started");
    until(|| dispatcher.state(&waits) == EventState::Delivered).await;
    assert_eq!(dispatcher.state(&stranded), EventState::Dead);
    decide(&dispatcher, &stranded, Decision::Redeliver).await.expect("redelivered");
    until(|| dispatcher.state(&stranded) == EventState::Delivered).await;
}
