//! The packet table through every engine on this machine; other kernels: `cargo xtask kernels`.

use monitor_common::abi::settings::InspectionDepth;
use peertally_datapath::{
    host::HostDataPath,
    object::{LoadOptions, LoadedObject},
    test_run::TestRunner,
};
use peertally_tests::kernel::{load_options, may_use_kernel};
use peertally_tests::packet_table::{SEED, run};

#[test]
fn host() {
    let options = load_options();
    let mut engine = HostDataPath::new(&options.sizes, &options.pools, SEED, InspectionDepth::Framing);
    engine.set_tunnel_endpoints(&options.tunnel_endpoints);
    engine.set_one_way();
    assert!(run(&mut engine).expect("every case") > 80);
}

#[test]
fn kernel_replaying() {
    if !may_use_kernel("packet table, replaying").expect("rights") {
        return;
    }
    let mut engine = TestRunner::new(&LoadOptions { replaying: true, ..load_options() }).expect("loads");
    assert!(run(&mut engine).expect("every case") > 80);
}

#[test]
fn kernel_as_attached() {
    if !may_use_kernel("packet table, as attached").expect("rights") {
        return;
    }
    let mut engine = LoadedObject::load(&load_options()).expect("loads");
    assert!(run(&mut engine).expect("every case") > 80);
}
