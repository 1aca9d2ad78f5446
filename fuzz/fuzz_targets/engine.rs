//! The whole data path over any packets: each is counted once, or skipped under a reason.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peertally_fuzz::engine::run(data));
