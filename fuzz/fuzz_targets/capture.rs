//! The capture reader over any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peertally_fuzz::capture::run(data));
