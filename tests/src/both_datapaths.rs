//! The host's and the kernel's data path together: each gets every frame, and their results must agree. Without the
//! rights to load a program, only the host's runs.

use monitor_common::{
    abi::{
        event::KernelEvent,
        key::Seed,
        outcome::Outcome,
        protocol::Verdict,
        record::VerdictRecord,
        settings::{Heuristic, InspectionDepth},
        spoofing::SpoofReason,
    },
    tables::token_bucket::PacketTally,
};
use peertally_core::{pool::Pool, words::Role};
use peertally_datapath::{
    TableSizes,
    host::{ACCESS, CORE, HostDataPath},
    object::{LoadOptions, MonitoredInterface},
    test_run::TestRunner,
};

use crate::kernel::{load_options, may_use_kernel};

/// Secret of the flow hash where it matters which flows share a set: with it, no test finds both sets of a flow full.
pub const SEED: Seed = Seed::from_random([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);

/// How both are set up for conversations: [`load_options`] with these tables and the clock of the test.
#[must_use]
pub fn options(sizes: TableSizes) -> LoadOptions {
    LoadOptions { sizes, seed: Some(SEED), replaying: true, ..load_options() }
}

/// The host's data path, and the kernel's if it may be used.
pub struct BothDatapaths {
    /// On the host.
    pub host: HostDataPath,
    /// The kernel data path. A test removes it if the test runner cannot send its frames.
    pub kernel: Option<TestRunner>,
    /// The second in which frames come in.
    pub now_s: u64,
    /// Interface that they arrive on, on the host; the kernel's test runner has one.
    pub interface: u16,
    /// The interfaces of the kernel's program.
    interfaces: Vec<MonitoredInterface>,
    pools: Vec<Pool>,
}

impl BothDatapaths {
    /// Both, set up alike; frames arrive on an interface with the role that the first one has.
    ///
    /// # Panics
    /// When the program does not load, and in strict mode without rights.
    #[must_use]
    pub fn new(test: &str, options: &LoadOptions) -> Self {
        let seed = options.seed.expect("tests choose their seed");
        let mut host = HostDataPath::new(&options.sizes, &options.pools, seed, options.inspection);
        host.set_tunnel_endpoints(&options.tunnel_endpoints);
        host.set_interfaces(&options.interfaces);
        host.view().settings.heuristic.store(options.heuristic.map_or(0, Heuristic::to_bits));
        options.write_shedding(host.view().settings);
        host.view().settings.one_way.store(u64::from(options.one_way));
        if options.inspection == InspectionDepth::Watchlist {
            host.watch(&options.watchlist.entries);
        }
        if options.record_bytes != 0 {
            host.record();
        }
        let kernel =
            may_use_kernel(test).expect("rights").then(|| TestRunner::new(options).expect("the program loads"));
        let interfaces = options.interfaces.clone();
        Self { host, kernel, now_s: 1_000, interface: ACCESS, interfaces, pools: options.pools.clone() }
    }

    /// Makes the interface of the frames to come an access or a core interface.
    pub fn set_role(&mut self, role: Role) {
        self.interfaces.iter_mut().for_each(|interface| interface.role = role);
        self.write_interfaces();
    }

    /// Makes the interface of the frames to come another one, which keeps its number.
    pub fn set_interface(&mut self, interface: MonitoredInterface) {
        self.interfaces = vec![MonitoredInterface { index: u32::from(ACCESS), ..interface }];
        self.write_interfaces();
    }

    fn write_interfaces(&mut self) {
        self.host.set_interfaces(&self.interfaces);
        if let Some(kernel) = &mut self.kernel {
            kernel.object().write_interfaces(&self.interfaces, &self.pools).expect("writes");
        }
    }

    fn is_on_core(&self) -> bool {
        self.interface == CORE || self.interfaces.iter().any(|interface| interface.role == Role::Core)
    }

    /// Counts a frame and returns the outcome.
    ///
    /// # Panics
    /// When the two disagree.
    pub fn frame(&mut self, frame: &[u8]) -> Outcome {
        let found = self.host.frame_on(self.interface, frame, frame.len(), self.now_s);
        if let Some(kernel) = &mut self.kernel {
            let there = kernel.frame(frame, frame.len(), self.now_s).expect("the test runner takes the frame");
            assert_eq!(there, found, "kernel and host");
            assert_eq!(kernel.rule(), self.host.rule(), "kernel and host");
        }
        found
    }

    /// Counts a frame of a flow; the flow's verdict so far. On a core interface a forged frame has none.
    ///
    /// # Panics
    /// As [`Self::frame`], and when the frame is counted in no flow.
    pub fn send(&mut self, frame: &[u8]) -> Verdict {
        match self.frame(frame) {
            Outcome::Known(verdict) | Outcome::New(verdict) | Outcome::Restarted(verdict) => verdict,
            Outcome::Uncached if self.is_on_core() => Verdict::UNCLASSIFIED,
            other => panic!("{other:?}"),
        }
    }

    /// What was shed on the interface that the frames arrive on.
    ///
    /// # Panics
    /// When the two disagree.
    #[must_use]
    pub fn shed(&self) -> PacketTally {
        let sum = |of_interfaces: Vec<PacketTally>| {
            let shed: Vec<PacketTally> =
                of_interfaces.into_iter().filter(|each| *each != PacketTally::default()).collect();
            assert!(shed.len() <= 1, "one interface has all of it: {shed:?}");
            shed.first().copied().unwrap_or_default()
        };
        let found = sum(self.host.shed());
        if let Some(kernel) = &self.kernel {
            assert_eq!(sum(kernel.shed().expect("reads")), found, "kernel and host");
        }
        found
    }

    /// Packets in the name of a subscriber who is not there.
    ///
    /// # Panics
    /// When the two disagree.
    #[must_use]
    pub fn spoofed(&self, reason: SpoofReason) -> u64 {
        let sum = |of_reasons: Vec<(SpoofReason, Vec<PacketTally>)>| {
            let found = of_reasons.into_iter().find(|(other, _)| *other == reason);
            found.map_or(0, |(_, tallies)| tallies.iter().map(|tally| tally.packets).sum::<u64>())
        };
        let found = sum(self.host.spoofed());
        if let Some(kernel) = &self.kernel {
            assert_eq!(sum(kernel.spoofed().expect("reads")), found, "kernel and host");
        }
        found
    }

    /// Verdict records since the last call.
    ///
    /// # Panics
    /// When the two disagree.
    pub fn records(&mut self) -> Vec<VerdictRecord> {
        let found = self.host.take_records();
        if let Some(kernel) = &mut self.kernel {
            assert_eq!(kernel.object().take_records(), found, "kernel and host");
        }
        found
    }

    /// How often something happened.
    ///
    /// # Panics
    /// When the two disagree.
    #[must_use]
    pub fn events(&self, event: KernelEvent) -> u64 {
        let found = self.host.events(event);
        if let Some(kernel) = &self.kernel {
            assert_eq!(kernel.event(event).expect("reads"), found, "{event:?}");
        }
        found
    }
}

/// Declares a test's own wrapper of [`BothDatapaths`], which dereferences to it. The test adds its methods in an
/// `impl`.
#[macro_export]
macro_rules! wrap_both_datapaths {
    ($(#[$about:meta])* $visible:vis $name:ident) => {
        $(#[$about])*
        $visible struct $name($crate::both_datapaths::BothDatapaths);

        impl std::ops::Deref for $name {
            type Target = $crate::both_datapaths::BothDatapaths;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }

        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.0
            }
        }
    };
}
