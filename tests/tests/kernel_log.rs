//! Kernel-side messages: there when asked for, gone from the verified program when not.

use std::sync::Mutex;

use aya::{TestRun as _, TestRunOptions};
use aya_log::EbpfLogger;
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, LoadedObject},
};
use peertally_tests::kernel::{load_options, may_use_kernel};

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Ear;

impl log::Log for Ear {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        HEARD.lock().expect("ear").push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Tables with room for the catch-all tally only: the first packet of a subscriber is refused one.
fn load(log_level: u8) -> LoadedObject {
    let sizes = TableSizes { flows: 64, tallies: 1, peers: 64 };
    LoadedObject::load(&LoadOptions { sizes, log_level, ..load_options() }).expect("loads")
}

fn verified(object: &mut LoadedObject) -> u32 {
    object.verified_instructions().expect("counts").iter().map(|(_, count)| count).sum()
}

#[test]
fn rare_events_are_reported_only_on_request() {
    if !may_use_kernel("kernel log").expect("rights") {
        return;
    }
    log::set_max_level(log::LevelFilter::Trace);
    let mut silent = load(0);
    let mut telling = load(4);
    assert!(verified(&mut silent) < verified(&mut telling), "the messages are in the verified program though off");
    let mut logger = EbpfLogger::init_with_logger(telling.ebpf(), Ear).expect("log");
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1]);
    frame.extend([0xc0, 1, 0xc0, 2, 0, 8, 0, 0]);
    let run = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
    telling.program().expect("program").test_run(run).expect("test run");
    logger.flush();
    let heard = HEARD.lock().expect("ear");
    assert!(
        heard.iter().any(|text| text.starts_with("event 6 on this CPU")),
        "tally_refused was not reported: {heard:?}"
    );
}
