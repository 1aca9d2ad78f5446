//! The classifier over the packets of one flow.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peertally_fuzz::classify::run(data));
