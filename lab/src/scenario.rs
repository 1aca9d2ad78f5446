//! A scenario: one client in one mode over one IP version, run through the agent's router, and its outcome compared
//! with ground truth.
//!
//! Subscriber 1 runs the client; its counterparts and their servers are on the internet host. The agent and a capture
//! run from before the first packet. Nothing but the client's traffic crosses the router, so every flow that
//! [`super::Truth`] does not name otherwise is P2P.

mod outcome;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

use super::{
    Agent, Capture, Counters, INTERNET_V4, INTERNET_V6, Lab, Namespace, POOLS, Truth, access, interrupt, is_p2p,
    output, subscriber_v4, subscriber_v6, until, wait_for,
};

use self::outcome::weigh;
pub use self::outcome::{ScenarioOutcome, Share};

/// The agent's configuration; the drain is short because a scenario is.
const CONFIGURATION: &str = "drain_interval = \"500ms\"\non_exit = \"detach\"\n[metrics]\nsubscribers = true\n";
/// Clients that did not find each other are started afresh: some ask again only after minutes.
const ATTEMPTS: u32 = 3;
/// Longest time until what is pending counts under a label: 17 s and two drains.
const PENDING: Duration = Duration::from_secs(25);
/// Longest time for a clear signal, from the start of the clients.
const SIGNAL: Duration = Duration::from_secs(60);

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Takes the other version from `host`, so that clients cannot choose it.
    fn alone(self, host: &Namespace) -> Result<()> {
        match self {
            Self::V4 => host.ip("-6 addr flush dev eth0"),
            Self::V6 => {
                host.ip("-4 addr flush dev eth0")?;
                // Leads nowhere. Without any IPv4 address, Transmission does not find the address 0.0.0.0
                // (getaddrinfo(3), AI_ADDRCONFIG), and its control port stays shut.
                host.ip("addr add 192.0.2.1/32 dev lo")
            }
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// Expectation of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    /// Every byte of every P2P flow that carries payload.
    All,
    /// This share (0 to 1) of the P2P bytes after [`Stage::mark`]: the client is known by then.
    AfterMark(f64),
    /// Nothing yet: the numbers are shown, for the reason given.
    Measured(&'static str),
    /// Every byte but those of flows that tell nothing on the wire, for the reason given. Some bytes are labelled.
    Signalling(&'static str),
}

impl fmt::Display for Expected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => out.write_str("all"),
            Self::AfterMark(share) => write!(out, ">= {:.0} % then", share * 100.0),
            Self::Measured(_) => out.write_str("(measured)"),
            Self::Signalling(_) => out.write_str("signalling"),
        }
    }
}

/// One client in one mode over one IP version.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The client.
    pub client: &'static str,
    /// How it is set up.
    pub mode: &'static str,
    /// The only IP version that the subscriber has.
    pub ip: IpVersion,
    /// Programs or files that it needs.
    pub programs: &'static [&'static str],
    /// Protocols that it speaks: another label is wrong.
    pub protocols: &'static [&'static str],
    /// Expectation of the scenario.
    pub expected: Expected,
    /// Plays it, from the start of the clients to the end of the transfer.
    pub play: fn(&Stage<'_>) -> Result<()>,
}

/// Where a scenario is played.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// The only IP version that the subscriber has.
    pub ip: IpVersion,
    agent: &'a Agent<'a>,
    before: &'a BTreeMap<String, Counters>,
    mark: RefCell<Option<Mark>>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Since 1970.
    time: Duration,
    /// Bytes that the agent had counted under a label.
    labelled: u64,
}

impl Stage<'_> {
    /// Address of the internet host.
    #[must_use]
    pub fn internet(&self) -> IpAddr {
        match self.ip {
            IpVersion::V4 => INTERNET_V4.into(),
            IpVersion::V6 => INTERNET_V6.into(),
        }
    }

    /// Address of the subscriber.
    #[must_use]
    pub fn subscriber(&self) -> IpAddr {
        match self.ip {
            IpVersion::V4 => subscriber_v4(1).into(),
            IpVersion::V6 => subscriber_v6(1).into(),
        }
    }

    /// Marks the moment from which the client is known: waits until the agent has named something of it and has drained
    /// every packet so far.
    ///
    /// # Errors
    /// The client gave no clear signal.
    pub fn mark(&self) -> Result<()> {
        wait_for("clear signal of the client", SIGNAL, Duration::from_millis(100), || {
            Ok(self.agent.labelled_bytes()?.settled > 0)
        })?;
        self.agent.settled(self.before)?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
        *self.mark.borrow_mut() = Some(Mark { time, labelled: self.agent.labelled_bytes()?.settled });
        Ok(())
    }
}

impl Scenario {
    /// `client-mode-ipversion`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.client, self.mode, self.ip)
    }

    /// Plays it with the agent `executable`, and keeps the capture as `captures/name.pcap` if a folder is given.
    ///
    /// # Errors
    /// The clients do not do their part. What the agent saw is no error here: see [`ScenarioOutcome::judge`].
    pub fn run(&self, executable: &Path, captures: Option<&Path>) -> Result<ScenarioOutcome> {
        let mut attempt = 1;
        loop {
            match self.attempt(executable, captures)? {
                Ok(outcome) => return Ok(outcome),
                Err(error) if attempt == ATTEMPTS => return Err(error.context(self.name())),
                Err(error) => println!("{}: attempt {attempt}: {error:#}", self.name()),
            }
            attempt += 1;
        }
    }

    /// The inner error is the clients', and worth another attempt.
    fn attempt(&self, executable: &Path, captures: Option<&Path>) -> Result<Result<ScenarioOutcome>> {
        let lab = Lab::new(1)?;
        self.ip.alone(lab.subscriber(1))?;
        let (agent, before) = Agent::start_before_traffic(&lab, executable, CONFIGURATION)?;
        let file = lab.directory().join(format!("{}.pcap", self.name()));
        let capture = Capture::start(lab.router(), &access(1), &file, &["-s", "0"])?;
        let stage = Stage { lab: &lab, ip: self.ip, agent: &agent, before: &before, mark: RefCell::default() };
        let start = Instant::now();
        let played = (self.play)(&stage);
        let time = start.elapsed();
        if let Err(error) = played {
            drop(capture);
            drop(agent);
            lab.close()?;
            return Ok(Err(error));
        }
        lab.settle()?;
        let rows = agent.settled(&before)?;
        let pcap = capture.stop()?;
        if let Some(folder) = captures {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            let copy = folder.join(format!("{}.pcap", self.name()));
            fs::write(&copy, &pcap).with_context(|| format!("write {}", copy.display()))?;
        }
        let truth = Truth::read(&pcap)?;
        let replayed = replay(executable, &file)?;
        let before_mark = match *stage.mark.borrow() {
            Some(mark) => {
                let part = lab.directory().join("before-mark.pcap");
                fs::write(&part, until(&pcap, mark.time)?).with_context(|| format!("write {}", part.display()))?;
                Some((mark, replay(executable, &part)?))
            }
            None => None,
        };
        let mut outcome = weigh(&rows, &truth, &replayed, agent.labelled_bytes()?, before_mark.as_ref());
        if outcome.judge(self).is_err() {
            // What is pending has no label yet.
            let settled = wait_for("end of what is pending", PENDING, Duration::from_millis(500), || {
                Ok(agent.labelled_bytes()?.pending == 0)
            });
            if let Err(error) = settled {
                println!("{}: {error:#}", self.name());
            }
            outcome = weigh(&agent.subscribers()?, &truth, &replayed, agent.labelled_bytes()?, before_mark.as_ref());
        }
        outcome.time = time;
        drop(agent);
        lab.close()?;
        Ok(Ok(outcome))
    }
}

/// Plays `scenarios`, up to `jobs` at a time (each has a lab of its own), and hands each with its result to `done`
/// as it ends.
pub fn play_all(
    scenarios: &[Scenario],
    jobs: usize,
    executable: &Path,
    captures: Option<&Path>,
    done: impl FnMut(&Scenario, Result<ScenarioOutcome>) + Send,
) {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(done);
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, scenarios.len().max(1)) {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = scenario.run(executable, captures);
                    (*done.lock().unwrap_or_else(PoisonError::into_inner))(scenario, result);
                    if interrupt().load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
    });
}

/// What `replay` says of a capture.
#[derive(Debug, serde::Deserialize)]
struct Replayed {
    /// All traffic.
    protocols: Vec<ProtocolBytes>,
    /// Traffic that counts for no subscriber.
    unanswered: Vec<ProtocolBytes>,
    /// Every flow.
    flows: Vec<ReplayedFlow>,
}

#[derive(Debug, serde::Deserialize)]
struct ProtocolBytes {
    protocol: String,
    bytes: u64,
}

/// Bytes with a P2P label.
fn p2p_bytes(rows: &[ProtocolBytes]) -> u64 {
    rows.iter().filter(|row| is_p2p(&row.protocol)).map(|row| row.bytes).sum()
}

#[derive(Debug, serde::Deserialize)]
struct ReplayedFlow {
    l4: String,
    a: IpAddr,
    a_port: u16,
    b: IpAddr,
    b_port: u16,
    protocol: String,
    packets: u64,
    bytes: u64,
}

impl fmt::Display for ReplayedFlow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (SocketAddr::new(self.a, self.a_port), SocketAddr::new(self.b, self.b_port));
        write!(out, "{} {a} {b}, {} packets, {} bytes", self.l4, self.packets, self.bytes)
    }
}

/// Replays the capture of a scenario.
fn replay(executable: &Path, capture: &Path) -> Result<Replayed> {
    let mut command = Command::new(executable);
    command.args(["replay", "--engine", "host", "--flows", "--format", "json"]).arg(capture);
    for pool in POOLS {
        command.args(["--subscribers", pool]);
    }
    let replayed = output(&mut command)?;
    ensure!(replayed.status.success(), "replay: {}", String::from_utf8_lossy(&replayed.stderr));
    serde_json::from_slice(&replayed.stdout).context("the result of replay")
}
