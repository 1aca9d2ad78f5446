//! What waits in the store, what ends there, and decisions of people.

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
    let (both, none) = (event(), event());
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
