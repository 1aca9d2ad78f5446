//! Programs that succeed, fail, hang and leave children behind.

use super::*;

async fn run(script: &str, limit: Duration) -> Result<(), Failure> {
    exec::run(
        Path::new("/bin/sh"),
        &["-c".to_owned(), script.to_owned()],
        &[("PEERTALLY_EVENT_ID", "1")],
        &event().to_json(SubscriberForm::Both),
        limit,
    )
    .await
}

/// Whether a process ends (or is only a zombie) soon.
async fn ends(pid: &str) -> bool {
    for _ in 0..200 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn a_program_gets_the_event_and_a_bare_environment() {
    let directory = tempfile::tempdir().expect("directory");
    let out = directory.path().join("out");
    let script = format!("cat > {0}; env | sort > {0}.env; pwd > {0}.pwd", out.display());
    run(&script, Duration::from_secs(5)).await.expect("ran");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).expect("read")).expect("JSON");
    assert_eq!(json["policy"], "heavy");
    let environment = std::fs::read_to_string(out.with_extension("env")).expect("read");
    let names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(
        names.iter().filter(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(*name)).collect::<Vec<_>>(),
        [&"PATH", &"PEERTALLY_EVENT_ID"]
    );
}

#[tokio::test]
async fn failing_programs_say_why() {
    let failure = run("echo something >&2; exit 3", Duration::from_secs(5)).await.expect_err("fails");
    assert_eq!(failure.reason, EXIT_STATUS);
    assert!(failure.detail.contains("exit status 3") && failure.detail.contains("something"), "{}", failure.detail);
    let failure = run("kill -KILL $$", Duration::from_secs(5)).await.expect_err("fails");
    assert_eq!(failure.reason, SIGNAL);
    let failure = exec::run(Path::new("/nonexistent"), &[], &[], b"", Duration::from_secs(1)).await.expect_err("fails");
    assert_eq!(failure.reason, SPAWN);
}

#[tokio::test]
async fn input_ignored_or_refused_is_no_failure() {
    let large = vec![b'x'; 1 << 20];
    for script in ["true", "exec <&-; sleep 0.1; true"] {
        exec::run(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], &[], &large, Duration::from_secs(5))
            .await
            .expect(script);
    }
}

#[tokio::test]
async fn endless_output_is_read_and_thrown_away() {
    run("head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2", Duration::from_secs(20)).await.expect("ran");
    let failure =
        run("head -c 100000 /dev/zero | tr '\\0' x; exit 1", Duration::from_secs(5)).await.expect_err("fails");
    assert!(failure.detail.len() < 5000, "{}", failure.detail.len());
}

#[tokio::test]
async fn a_hanging_program_is_killed_with_its_children() {
    let directory = tempfile::tempdir().expect("directory");
    let pids = directory.path().join("pids");
    // The shell and its child both ignore the polite signal.
    let script = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 1; done' & echo $$ >> {0}; wait; while :; do sleep 1; done",
        pids.display()
    );
    let begun = Instant::now();
    let failure = run(&script, Duration::from_millis(500)).await.expect_err("hangs");
    assert_eq!(failure.reason, TIMEOUT);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let pids = std::fs::read_to_string(&pids).expect("read");
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        assert!(ends(pid).await, "process {pid} is still there");
    }
}

#[tokio::test]
async fn a_child_left_behind_holds_nothing_up_and_ends() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("pid");
    let begun = Instant::now();
    run(&format!("sleep 1000 & echo $! > {}", file.display()), Duration::from_secs(30)).await.expect("ran");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let pid = std::fs::read_to_string(&file).expect("read");
    assert!(ends(pid.trim()).await, "the child is still there");
}
