//! Traffic through a lab's router without a program, with an empty one and with the shipped one, attached natively.
//!
//! Two kinds: connections of iperf3 between a subscriber and the internet, forwarded by the router; and small packets
//! of 65,536 flows from the kernel's live-frame test runner (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18), which the
//! router's interface receives as it would receive them from a card and the router then discards. The empty program
//! tells what native XDP costs on these interfaces (veth copies each packet for it) from what Peertally costs.
#![expect(unsafe_code, reason = "the generator's record is plain old data, which only `unsafe impl` can state")]

use std::{
    fs,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{PerCpuArray, PerCpuValues, ProgramArray},
    programs::{Xdp, xdp::XdpMode},
    util::nr_cpus,
};
use peertally_datapath::object::{LoadOptions, LoadedObject};
use peertally_lab::{CORE, INTERNET_V4, Lab, POOLS, Process, access, output, wait_for};
use serde_json::{Value, json};

use crate::{
    layout::{Generator, RANDOM, UP},
    median,
    stats::{On, Runs},
};

// SAFETY: `Generator` is `repr(C)`, made of integers, without padding (its size is asserted at the type).
unsafe impl aya::Pod for Generator {}

/// Rounds; the programs take turns in each.
const ROUNDS: usize = 5;
/// Seconds of one iperf3 run.
const SECONDS: u32 = 3;
/// Connections of one iperf3 run.
const CONNECTIONS: u32 = 4;
/// Small packets of one run.
const SMALL_PACKETS: u32 = 1 << 20;
/// Packets that warm up: enough that every flow is settled.
const WARM_PACKETS: u32 = 1 << 20;
/// Flows of the small packets.
const FLOWS: u32 = 1 << 16;
/// Packets that the live-frame test runner sends at a time.
const BATCH: u32 = 64;

/// Program on the router's interfaces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Empty,
    Peertally,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no program",
            Self::Empty => "empty program",
            Self::Peertally => "Peertally",
        }
    }
}

/// The lab and both programs.
struct Rig {
    lab: Rc<Lab>,
    bench: Ebpf,
    shipped: LoadedObject,
}

/// Measures both kinds of traffic.
pub(crate) fn measure(object: &Path) -> Result<Value> {
    let mut rig = Rig::new(object)?;
    let _statistics = On::new()?;
    let connections = rig.connections()?;
    let small = rig.small_packets()?;
    Ok(json!({ "connections": connections, "small_packets": small }))
}

impl Rig {
    fn new(object: &Path) -> Result<Self> {
        let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
        let mut bench = EbpfLoader::new().load(&bytes).context("loading the benchmark object")?;
        for name in ["empty", "transmit", "prologue_ipv4"] {
            xdp(&mut bench, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let options =
            LoadOptions { pools: vec!["100.64.0.0/10".parse()?, POOLS[1].parse()?], ..LoadOptions::default() };
        let mut shipped = LoadedObject::load(&options)?;
        shipped.program()?;
        Ok(Self { lab: Rc::new(Lab::new(1)?), bench, shipped })
    }

    fn program(&mut self, state: State) -> Result<Option<&mut Xdp>> {
        Ok(match state {
            State::Nothing => None,
            State::Empty => Some(xdp(&mut self.bench, "empty")?),
            State::Peertally => Some(self.shipped.program()?),
        })
    }

    /// Does something while a program is attached to these of the router's interfaces; its runs meanwhile.
    fn with<T>(
        &mut self,
        state: State,
        interfaces: &[String],
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(T, Runs)> {
        let lab = Rc::clone(&self.lab);
        let Some(program) = self.program(state)? else { return Ok((work(self)?, Runs::default())) };
        let links = lab.router().inside(|| {
            interfaces.iter().map(|name| Ok(program.attach(name, XdpMode::Driver)?)).collect::<Result<Vec<_>>>()
        })?;
        let before = Runs::of(program)?;
        let result = work(self);
        let Some(program) = self.program(state)? else { bail!("a program that is gone") };
        let runs = Runs::of(program)?.since(before);
        for link in links {
            program.detach(link)?;
        }
        Ok((result?, runs))
    }

    /// iperf3 up and down, by state: bits per second and the program's time per packet.
    fn connections(&mut self) -> Result<Value> {
        let mut command = self.lab.internet().command("iperf3");
        let mut server = Process::spawn("iperf3", self.lab.directory(), command.args(["-s", "--forceflush"]))?;
        wait_for("iperf3", Duration::from_secs(20), Duration::from_millis(20), || {
            server.ensure_running()?;
            Ok(server.log().contains("Server listening"))
        })?;
        let interfaces = [access(1), CORE.to_owned()];
        let states = [State::Nothing, State::Empty, State::Peertally];
        let mut found = states.map(|state| (state, [Vec::new(), Vec::new()], Vec::new()));
        for _ in 0..ROUNDS {
            for (state, rates, ns) in &mut found {
                let (both, runs) = self.with(*state, &interfaces, |rig| Ok([rig.iperf3(false)?, rig.iperf3(true)?]))?;
                rates.iter_mut().zip(both).for_each(|(rates, rate)| rates.push(rate));
                ns.push(runs.ns_per_packet());
            }
        }
        let rows = found.into_iter().map(|(state, [up, down], ns)| {
            let (up, down, ns) = (median(up), median(down), median(ns));
            eprintln!("{:<16} up {:>6.2} Gbit/s, down {:>6.2} Gbit/s, {ns:>5.0} ns", state.name(), up / 1e9, down / 1e9);
            json!({ "state": state.name(), "up_bits_per_second": up, "down_bits_per_second": down, "program_ns_per_packet": ns })
        });
        Ok(
            json!({ "connections": CONNECTIONS, "seconds": SECONDS, "rounds": ROUNDS, "rows": rows.collect::<Vec<_>>() }),
        )
    }

    /// One run between the subscriber and the internet; bits per second that arrived.
    fn iperf3(&self, down: bool) -> Result<f64> {
        let mut command = self.lab.subscriber(1).command("iperf3");
        let (server, connections, seconds) = (INTERNET_V4.to_string(), CONNECTIONS.to_string(), SECONDS.to_string());
        command.args(["-c", &server, "-P", &connections, "-t", &seconds, "-J"]).args(down.then_some("-R"));
        let ended = output(&mut command)?;
        let report: Value = serde_json::from_slice(&ended.stdout).context("iperf3's JSON")?;
        report["end"]["sum_received"]["bits_per_second"].as_f64().with_context(|| report["error"].to_string())
    }

    /// Small packets into the router's access interface, by program: packets per second and the program's time per
    /// packet.
    fn small_packets(&mut self) -> Result<Value> {
        let lab = Rc::clone(&self.lab);
        let mut programs = ProgramArray::try_from(self.bench.take_map("PROGRAMS").context("PROGRAMS")?)?;
        let transmit = xdp(&mut self.bench, "transmit")?.fd()?.try_clone()?;
        programs.set(0, &transmit, 0).context("putting `transmit` behind the prologue")?;
        let mut generator: PerCpuArray<_, Generator> =
            PerCpuArray::try_from(self.bench.take_map("GENERATOR").context("GENERATOR")?)?;
        let cpus = nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?;
        let each = Generator {
            random: 0x9e37_79b9_7f4a_7c15,
            flow_mask: u64::from(FLOWS - 1),
            subscriber_mask: FLOWS - 1,
            order: RANDOM,
            direction: UP,
            pooled: 1,
            remote_port: 443,
            ..Generator::default()
        };
        generator.set(0, PerCpuValues::try_from(vec![each; cpus])?, 0)?;
        // The test runner takes only devices that XDP runs on: the sender's interface has a program, too.
        let sender = xdp(&mut self.bench, "prologue_ipv4")?;
        lab.subscriber(1).inside(|| Ok(sender.attach("eth0", XdpMode::Driver)?))?;
        let index = self.index_of_sender()?;
        let mut found = [State::Empty, State::Peertally].map(|state| (state, Vec::new(), Vec::new(), Vec::new()));
        for _ in 0..ROUNDS {
            for (state, rates, ns, arrived) in &mut found {
                let (_, _) = self.with(*state, &[access(1)], |rig| rig.send(index, WARM_PACKETS))?;
                let (took, runs) = self.with(*state, &[access(1)], |rig| rig.send(index, SMALL_PACKETS))?;
                rates.push(runs.packets as f64 / took.as_secs_f64());
                ns.push(runs.ns_per_packet());
                arrived.push(runs.packets as f64 / f64::from(SMALL_PACKETS));
            }
        }
        let rows = found.into_iter().map(|(state, rates, ns, arrived)| {
            let (rate, ns, arrived) = (median(rates), median(ns), median(arrived));
            eprintln!("{:<16} {:>6.2} million packets/s, {:.1} % arrived, {ns:>5.0} ns", state.name(), rate / 1e6, arrived * 100.0);
            json!({ "state": state.name(), "packets_per_second": rate, "arrived": arrived, "program_ns_per_packet": ns })
        });
        Ok(json!({ "packets": SMALL_PACKETS, "flows": FLOWS, "rounds": ROUNDS, "rows": rows.collect::<Vec<_>>() }))
    }

    fn index_of_sender(&self) -> Result<u32> {
        let shown = output(self.lab.subscriber(1).command("ip").args(["-o", "link", "show", "dev", "eth0"]))?;
        let text = String::from_utf8(shown.stdout)?;
        text.split(':').next().context("an index")?.trim().parse().with_context(|| text.clone())
    }

    /// Sends packets out of the subscriber's interface; how long that took.
    fn send(&mut self, index: u32, packets: u32) -> Result<Duration> {
        let frame = small_frame();
        let context: Vec<u8> =
            [0, frame.len() as u32, 0, index, 0, 0].iter().flat_map(|field: &u32| field.to_ne_bytes()).collect();
        let lab = Rc::clone(&self.lab);
        let prologue = &*xdp(&mut self.bench, "prologue_ipv4")?;
        lab.subscriber(1).inside(|| {
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: packets,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            };
            let begun = Instant::now();
            prologue.test_run(options).context("BPF_PROG_TEST_RUN with live frames")?;
            Ok(begun.elapsed())
        })
    }
}

fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(object.program_mut(name).context("a program of the benchmark object")?.try_into()?)
}

/// A TCP segment with 6 bytes of payload: 60 bytes, the shortest Ethernet frame. Its destination is nobody's hardware
/// address, so the router drops it once it has been counted.
fn small_frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0xee, 0xee, 2, 0, 0, 0, 0xee, 0xef, 0x08, 0x00];
    frame.extend([0x45, 0, 0, 46, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([0; 12]);
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(b"\x17\x03\x03\0\x01.");
    frame
}
