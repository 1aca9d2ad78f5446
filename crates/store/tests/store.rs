//! Opening, migrating, writing and reading a store, and each way in which that is refused.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use peertally_store::{
    Observer, Store, StoreError, WriteFailure,
    folder::{self, FILE},
    migrations::{self, MIGRATIONS, Migration, VERSION},
    rusqlite::{Connection, Transaction, params},
    store::open_reader,
    writer::Unobserved,
};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn open(folder: &Path) -> Store {
    Store::open(folder, Unobserved).expect("opens")
}

fn refused(folder: &Path) -> StoreError {
    Store::open(folder, Unobserved).expect_err("refused")
}

fn put(name: &str, value: i64) -> impl FnOnce(&Transaction<'_>) -> peertally_store::rusqlite::Result<()> + use<> {
    let name = name.to_owned();
    move |transaction| {
        transaction.prepare_cached("INSERT INTO facts VALUES (?1, ?2)")?.execute(params![name, value]).map(|_| ())
    }
}

fn facts(connection: &Connection) -> Vec<(String, i64)> {
    let mut statement = connection.prepare("SELECT name, value FROM facts ORDER BY name").expect("a statement");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    rows.collect::<Result<_, _>>().expect("reads")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").mode() & 0o777
}

#[test]
fn what_was_acknowledged_is_there_at_the_next_opening() {
    let folder = folder();
    let state = folder.path().join("deep/state");
    let store = open(&state);
    store.writer().write(put("a", 1)).expect("commits");
    assert_eq!(facts(&store.reader().expect("a reader")), [("a".to_owned(), 1)]);
    assert_eq!((mode(&state), mode(&state.join(FILE))), (0o700, 0o600));
    assert_eq!(mode(&state.join(format!("{FILE}-wal"))), 0o600);
    // The last handle commits what waits.
    for number in 0..100 {
        store.writer().submit(put(&format!("b{number}"), number), |outcome| outcome.expect("commits"));
    }
    drop(store);
    assert_eq!(facts(&open_reader(&state).expect("a reader")).len(), 101);
    assert_eq!(facts(&open(&state).reader().expect("a reader")).len(), 101);
}

#[test]
fn a_reader_writes_nothing() {
    let folder = folder();
    let store = open(folder.path());
    let reader = store.reader().expect("a reader");
    assert!(reader.execute("INSERT INTO facts VALUES ('a', 1)", []).is_err());
    store.writer().write(put("a", 1)).expect("commits");
    assert_eq!(facts(&reader).len(), 1);
    let missing = open_reader(&folder.path().join("none")).expect_err("there is none");
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
}

#[derive(Default)]
struct Counts {
    commits: AtomicUsize,
    writes: AtomicUsize,
    failed: AtomicUsize,
}

struct Counting(Arc<Counts>);

impl Observer for Counting {
    fn committed(&self, writes: usize, _duration: Duration) {
        self.0.commits.fetch_add(1, SeqCst);
        self.0.writes.fetch_add(writes, SeqCst);
    }

    fn failed(&self, writes: usize, failure: WriteFailure) {
        assert_eq!(failure, WriteFailure::Refused);
        self.0.failed.fetch_add(writes, SeqCst);
    }
}

#[test]
fn writes_that_wait_are_committed_together_and_one_that_fails_is_undone_alone() {
    let folder = folder();
    let counts = Arc::new(Counts::default());
    let store = Store::open(folder.path(), Counting(Arc::clone(&counts))).expect("opens");
    let (hold, held) = mpsc::channel::<()>();
    // While the first write is held, the others wait.
    store.writer().submit(
        move |_| {
            held.recv().expect("is let go");
            Ok(())
        },
        |outcome| outcome.expect("commits"),
    );
    let (sender, receiver) = mpsc::channel();
    for number in 0..20 {
        let sender = sender.clone();
        let half = number == 7;
        store.writer().submit(
            move |transaction| {
                put(&format!("a{number}"), number)(transaction)?;
                if half {
                    put("a0", 0)(transaction)?;
                }
                Ok(number)
            },
            move |outcome: Result<i64, StoreError>| {
                sender.send(outcome.map_err(|error| (number, error))).expect("waits")
            },
        );
    }
    hold.send(()).expect("waits");
    drop(sender);
    let outcomes: Vec<_> = receiver.iter().collect();
    let (good, bad): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (19, 1));
    let (number, error) = bad[0].as_ref().expect_err("failed");
    assert_eq!((*number, error.failure()), (7, Some(WriteFailure::Refused)));
    let found = facts(&store.reader().expect("a reader"));
    assert_eq!(found.len(), 19);
    assert!(!found.iter().any(|(name, _)| name == "a7"));
    drop(store);
    assert_eq!((counts.writes.load(SeqCst), counts.failed.load(SeqCst)), (20, 1));
    assert!(counts.commits.load(SeqCst) <= 2, "{} commits", counts.commits.load(SeqCst));
}

#[test]
fn a_full_store_says_so_and_takes_the_same_write_when_there_is_space() {
    let folder = folder();
    let store = open(folder.path());
    let limit = |pages: i64| {
        move |transaction: &Transaction<'_>| {
            transaction.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, i64>(0))
        }
    };
    // The least value is the present size.
    store.writer().write(limit(1)).expect("a limit");
    let large = |transaction: &Transaction<'_>| {
        transaction.execute("INSERT INTO facts VALUES ('large', zeroblob(100000))", []).map(|_| ())
    };
    let error = store.writer().write(large).expect_err("full");
    assert_eq!(error.failure(), Some(WriteFailure::Full), "{error}");
    assert!(WriteFailure::Full.is_temporary() && error.to_string().contains("make space"), "{error}");
    assert!(facts(&store.reader().expect("a reader")).is_empty());
    store.writer().write(limit(1_000_000)).expect("a limit");
    store.writer().write(large).expect("there is space");
}

#[test]
fn a_store_of_a_newer_version_is_refused_by_name_and_left_alone() {
    let folder = folder();
    drop(open(folder.path()));
    let path = folder.path().join(FILE);
    let connection = Connection::open(&path).expect("opens");
    connection.pragma_update(None, "user_version", VERSION + 1).expect("writes");
    drop(connection);
    let before = fs::read(&path).expect("reads");
    let error = refused(folder.path());
    assert!(
        matches!(error, StoreError::Newer { found, known, .. } if (found, known) == (VERSION + 1, VERSION)),
        "{error}"
    );
    assert!(matches!(open_reader(folder.path()).expect_err("newer"), StoreError::Newer { .. }));
    assert_eq!(fs::read(&path).expect("reads"), before);
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join(FILE);
    Connection::open(&path).expect("opens").execute_batch("CREATE TABLE theirs (a)").expect("writes");
    let before = fs::read(&path).expect("reads");
    let error = refused(folder.path());
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&path).expect("reads"), before);
}

#[test]
fn a_damaged_store_is_refused_with_the_next_step_and_never_removed() {
    for at in [0, 4096] {
        let folder = folder();
        let store = open(folder.path());
        for number in 0..500 {
            store.writer().submit(put(&format!("a fact with a long name {number}"), number), |_| ());
        }
        drop(store);
        let path = folder.path().join(FILE);
        let mut bytes = fs::read(&path).expect("reads");
        let end = bytes.len().min(at + 8192);
        bytes[at..end].fill(0x5a);
        fs::write(&path, &bytes).expect("writes");
        let error = refused(folder.path());
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("move the file"), "{error}");
        assert_eq!(fs::read(&path).expect("is kept"), bytes);
    }
}

#[test]
fn folders_and_files_that_others_could_have_written_are_refused() {
    let outer = folder();
    let open_to_all = outer.path().join("open");
    fs::create_dir(&open_to_all).expect("a folder");
    fs::set_permissions(&open_to_all, Permissions::from_mode(0o777)).expect("rights");
    assert!(matches!(refused(&open_to_all), StoreError::Unsafe { .. }));
    // A folder that others may only read is as good, and stays so: it may be somebody's.
    fs::set_permissions(&open_to_all, Permissions::from_mode(0o755)).expect("rights");
    drop(open(&open_to_all));
    assert_eq!(mode(&open_to_all), 0o755);

    let file = open_to_all.join(FILE);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("rights");
    drop(open(&open_to_all));
    assert_eq!(mode(&file), 0o600);

    let linked = outer.path().join("linked");
    fs::create_dir(&linked).expect("a folder");
    symlink(&file, linked.join(FILE)).expect("a link");
    assert!(matches!(refused(&linked), StoreError::Unsafe { .. }));

    if rustix_is_root() {
        std::os::unix::fs::chown(&file, Some(65534), None).expect("another owner");
        let error = refused(&open_to_all);
        assert!(matches!(error, StoreError::Owner { found: 65534, .. }), "{error}");
        assert!(error.is_permission());
    }
    assert!(matches!(folder::ensure(&file).expect_err("a file"), StoreError::Path { .. } | StoreError::Unsafe { .. }));
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").expect("is there").uid() == 0
}

/// Tables and indexes of a store, as SQL.
fn schema(connection: &Connection) -> Vec<String> {
    let mut statement =
        connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").expect("a statement");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("reads")
}

#[test]
fn every_older_version_becomes_the_present_one() {
    let fresh = folder();
    let present = schema(&open(fresh.path()).reader().expect("a reader"));
    for old in 1..=MIGRATIONS.len() {
        let folder = folder();
        let path = folder::ensure_file(folder.path()).expect("a file");
        let mut connection = Connection::open(&path).expect("opens");
        migrations::migrate(&mut connection, &path, &MIGRATIONS[..old]).expect("an older store");
        connection.execute("INSERT INTO facts VALUES ('kept', 3)", []).expect("writes");
        drop(connection);
        if old < MIGRATIONS.len() {
            let error = open_reader(folder.path()).expect_err("older");
            assert!(matches!(error, StoreError::Older { .. }), "{error}");
        }
        let reader = open(folder.path()).reader().expect("a reader");
        assert_eq!(schema(&reader), present, "from version {old}");
        assert_eq!(facts(&reader), [("kept".to_owned(), 3)]);
    }
}

#[test]
fn a_migration_that_fails_leaves_the_version_before_it() {
    let folder = folder();
    let path = folder::ensure_file(folder.path()).expect("a file");
    let mut connection = Connection::open(&path).expect("opens");
    let mut steps = MIGRATIONS.to_vec();
    steps.push(Migration { name: "broken", sql: "CREATE TABLE half (a); INSERT INTO nowhere VALUES (1);" });
    let error = migrations::migrate(&mut connection, &path, &steps).expect_err("broken");
    assert_eq!(error.failure(), Some(WriteFailure::Refused), "{error}");
    assert_eq!(migrations::version(&connection, &path).expect("reads"), VERSION);
    assert!(!schema(&connection).iter().any(|sql| sql.contains("half")));
}

#[test]
fn a_write_that_panics_fails_alone_and_the_writer_goes_on() {
    let folder = folder();
    let store = open(folder.path());
    let bug = |transaction: &Transaction<'_>| -> peertally_store::rusqlite::Result<()> {
        put("half", 1)(transaction)?;
        panic!("a bug of the caller");
    };
    let error = store.writer().write(bug).expect_err("a bug");
    assert!(error.failure() == Some(WriteFailure::Refused) && error.to_string().contains("panic"), "{error}");
    store.writer().submit(put("told", 2), |_| panic!("a bug of the callback"));
    store.writer().write(put("after", 3)).expect("commits");
    let found = facts(&store.reader().expect("a reader"));
    assert_eq!(found, [("after".to_owned(), 3), ("told".to_owned(), 2)]);
    assert!(!store.writer().has_ended());
}

struct Broken;

impl Observer for Broken {
    fn committed(&self, _writes: usize, _duration: Duration) {
        panic!("a bug of the observer");
    }
}

#[test]
fn a_writer_that_ended_by_a_bug_says_so() {
    let folder = folder();
    let store = Store::open(folder.path(), Broken).expect("opens");
    assert!(!store.writer().has_ended());
    let error = store.writer().write(put("a", 1)).expect_err("nobody acknowledges it");
    assert!(matches!(error, StoreError::Closed { .. }), "{error}");
    while !store.writer().has_ended() {
        std::thread::yield_now();
    }
}
