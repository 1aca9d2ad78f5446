//! Prototype: layouts of the flow table's hot part, and counts that are put off.
//!
//! `cargo run --release -p peertally-tests --example put_off -- 31` (root; the compiler and linker of
//! `cargo xtask build-ebpf`) prints ns per packet above an empty program, and multiples of the variant `wide`: median
//! and quartiles of so many rounds. A second argument names the only mode. All traffic stays between a pair of veth
//! interfaces in a network namespace that ends with the process.
#![expect(unsafe_code, reason = "plain old data in maps; a network namespace of the thread")]

use std::{collections::HashMap, fs, process::Command, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRunAttrs,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{TestRun as _, TestRunOptions, Xdp, XdpMode},
    sys::{Stats, enable_stats},
    util::nr_cpus,
};
use rustix::{
    thread::{CpuSet, UnshareFlags, sched_setaffinity, unshare_unsafe},
    time::{ClockId, clock_gettime},
};

const FLOWS: u64 = 1 << 19;
const PACKETS: u32 = 1 << 18;
const WARM: u32 = 1 << 16;
/// Frames that the live-frame test runner sends at a time; the receiver's ring has 256 places.
const BATCH: u32 = 64;
const CPU: usize = 1;
const XDP_DROP: u64 = 1;
const XDP_PASS: u64 = 2;

/// Variants, the program that fills each one's table (named once for each table), and the table's sets.
const VARIANTS: [(&str, &str, u64); 12] = [
    ("wide", "fill_wide", 1 << 18),
    ("wide_plain", "", 1 << 18),
    ("wide_tight", "fill_wide_tight", 3 << 16),
    ("small", "fill_small", 209_716),
    ("small_tight", "fill_small_tight", 157_287),
    ("padded", "fill_padded", 1 << 18),
    ("put_off", "", 1 << 18),
    ("put_off_both", "", 1 << 18),
    ("put_off_filtered", "", 1 << 18),
    ("put_off_locked", "", 1 << 18),
    ("put_off_small", "", 209_716),
    ("put_off_tight", "", 157_287),
];

/// Modes: name, live frames through veth, verdict, packets in a train, run-time statistics instead of CPU time.
const MODES: [(&str, bool, u64, u64, bool); 7] = [
    ("runner", false, XDP_PASS, 1, false),
    ("runner-trains", false, XDP_PASS, 4, false),
    ("veth-pass", true, XDP_PASS, 1, false),
    ("veth-drop", true, XDP_DROP, 1, false),
    ("veth-pass-trains", true, XDP_PASS, 4, false),
    ("veth-pass-statistics", true, XDP_PASS, 1, true),
    ("veth-drop-statistics", true, XDP_DROP, 1, true),
];

type Settings = [u64; 4];
/// Words of the map `STATE`: random, made, seen, counted, lost, position, then the ring.
type State = [u64; 6 + 8 * 4];

struct Rig {
    object: Ebpf,
    programs: ProgramArray<MapData>,
    settings: Array<MapData, Settings>,
    state: PerCpuArray<MapData, State>,
    sender: u32,
    ksoftirqd: String,
    random: u64,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(31), |text| text.parse())?;
    let only = arguments.next();
    let mut rig = Rig::new()?;
    for (_, fill, sets) in VARIANTS.iter().filter(|(_, fill, _)| !fill.is_empty()) {
        rig.run(fill, *sets, FLOWS as u32, (false, XDP_PASS, 0, false))?;
        let [_, _, seen, counted, lost, ..] = rig.state()?;
        println!("{fill}: {sets} sets, {seen} flows, {lost} without a way of {counted}");
    }
    for (mode, live, verdict, train, statistics) in MODES {
        if only.as_ref().is_some_and(|only| only != mode) {
            continue;
        }
        let _on = statistics.then(|| enable_stats(Stats::RunTime)).transpose()?;
        let (how, mut above) = ((live, verdict, train, statistics), HashMap::<&str, Vec<f64>>::new());
        let (mut order, mut empties) = (VARIANTS, Vec::new());
        for _ in 0..rounds {
            let mut before = rig.time("empty", 1, how)?;
            for (name, _, sets) in order {
                let ns = rig.time(name, sets, how)?;
                let after = rig.time("empty", 1, how)?;
                above.entry(name).or_default().push(ns - f64::midpoint(before, after));
                empties.push(after);
                before = after;
            }
            order.reverse();
        }
        println!("{mode}: empty {}", quartiles(empties));
        for (name, ..) in VARIANTS {
            let multiples = above[name].iter().zip(&above["wide"]).map(|(one, of)| one / of).collect();
            println!("  {name:<18}{}   {}", quartiles(above[name].clone()), quartiles(multiples));
        }
    }
    Ok(())
}

fn quartiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    format!("{:8.2} ({:.2} to {:.2})", at(2), at(1), at(3))
}

fn command(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().context("a command")?).args(words).status().context(line.to_owned())?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

impl Rig {
    fn new() -> Result<Self> {
        let (source, object) =
            (concat!(env!("CARGO_MANIFEST_DIR"), "/examples/put_off/kernel.rs"), "/tmp/put_off.bpf.o");
        // SAFETY: one thread so far; the variable lets a stable compiler build for the BPF target.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
        command(&format!(
            "/usr/bin/rustc --edition 2024 --target bpfel-unknown-none --crate-type bin -Copt-level=3 -Cpanic=abort \
             -Ctarget-cpu=v3 -Ctarget-feature=+allows-misaligned-mem-access -Clinker=bpf-linker -Ccodegen-units=1 \
             -Clink-arg=--llvm-args=-combiner-store-merging=false {source} -o {object}"
        ))?;
        let mut cpus = CpuSet::new();
        cpus.set(CPU);
        sched_setaffinity(None, &cpus).context("pinning")?;
        // SAFETY: of the flags only `FILES` takes something away from code that relies on it; this is another one.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("making a network namespace: it needs root")?;
        command("ip link add sender type veth peer name receiver")?;
        command("ip link set sender up")?;
        command("ip link set receiver up")?;
        let shown = Command::new("ip").args(["-o", "link", "show", "dev", "sender"]).output()?.stdout;
        let sender = String::from_utf8(shown)?.split(':').next().context("an index")?.trim().parse()?;
        let mut object = EbpfLoader::new().load(&fs::read(object)?).context("loading the prototype")?;
        for (name, program) in object.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        for (name, interface) in [("generate", "sender"), ("receive", "receiver")] {
            let program: &mut Xdp = object.program_mut(name).context(name)?.try_into()?;
            program.attach(interface, XdpMode::Driver).with_context(|| format!("attaching to {interface}"))?;
        }
        let ksoftirqd = fs::read_dir("/proc")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == format!("ksoftirqd/{CPU}"))
            })
            .context("ksoftirqd")?;
        Ok(Self {
            programs: ProgramArray::try_from(object.take_map("PROGRAMS").context("PROGRAMS")?)?,
            settings: Array::try_from(object.take_map("SETTINGS").context("SETTINGS")?)?,
            state: PerCpuArray::try_from(object.take_map("STATE").context("STATE")?)?,
            object,
            sender,
            ksoftirqd: format!("{}/schedstat", ksoftirqd.display()),
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    fn xdp(&self, name: &str) -> Result<&Xdp> {
        Ok(self.object.program(name).context("a program")?.try_into()?)
    }

    fn state(&self) -> Result<State> {
        Ok(self.state.get(&0, 0)?[CPU])
    }

    /// A warm run and a timed one; ns per packet. Again when another CPU has taken the receiver's softirq over.
    fn time(&mut self, name: &str, sets: u64, how: (bool, u64, u64, bool)) -> Result<f64> {
        let packets = if name == "empty" { PACKETS / 2 } else { PACKETS };
        let mut once = || self.run(name, sets, WARM, how).and_then(|_| self.run(name, sets, packets, how));
        for _ in 0..9 {
            match once() {
                Ok(ns) => return Ok(ns),
                Err(error) => eprintln!("again: {error}"),
            }
            sleep(Duration::from_millis(100));
        }
        once()
    }

    fn run(
        &mut self,
        name: &str,
        sets: u64,
        packets: u32,
        (live, verdict, train, statistics): (bool, u64, u64, bool),
    ) -> Result<f64> {
        let slots = if live { ["transmit", name] } else { [name, name] };
        for (slot, name) in slots.into_iter().enumerate() {
            let program = self.xdp(name)?.fd()?.try_clone()?;
            self.programs.set(slot as u32, &program, 0)?;
        }
        self.settings.set(0, [train.wrapping_sub(1), FLOWS - 1, sets, verdict], 0)?;
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut fresh = [0; 6 + 8 * 4];
        fresh[0] = self.random | 1;
        self.state.set(0, PerCpuValues::try_from(vec![fresh; nr_cpus().map_err(|(_, error)| error)?])?, 0)?;
        let frame = frame();
        let context: Vec<u8> =
            [0, frame.len() as u32, 0, self.sender, 0, 0].iter().flat_map(|field: &u32| field.to_ne_bytes()).collect();
        let mut options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
        if live {
            options.ctx_in = Some(&context);
            options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        }
        let before = (self.cpu_ns()?, self.xdp("receive")?.info()?.run_time());
        self.xdp("generate")?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let after = (self.cpu_ns()?, self.xdp("receive")?.info()?.run_time());
        let [_, _, seen, counted, lost, ..] = self.state()?;
        ensure!(seen * 100 >= u64::from(packets) * 99, "{name}: {seen} of {packets} packets arrived");
        // The tightest table has no way for one flow in thirty.
        ensure!(name == "empty" || lost * 20 < seen, "{name}: {counted} counted, {lost} not");
        let ns = if statistics { (after.1 - before.1).as_nanos() as f64 } else { (after.0 - before.0) as f64 };
        Ok(ns / seen as f64)
    }

    /// CPU time of this thread, in which softirqs run, and of the thread that takes them over when they are many.
    fn cpu_ns(&self) -> Result<u64> {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let schedule = fs::read_to_string(&self.ksoftirqd)?;
        let softirqs: u64 = schedule.split(' ').next().context("schedstat")?.parse()?;
        Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 + softirqs)
    }
}

/// An Ethernet frame of 60 bytes with IPv4 and UDP, to nobody's hardware address: the stack drops it.
fn frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0xee, 0xee, 2, 0, 0, 0, 0xee, 0xef, 8, 0];
    frame.extend([0x45, 0, 0, 46, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([0; 34]);
    frame
}
