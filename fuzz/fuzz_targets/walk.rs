//! The header walk over any frame.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peertally_fuzz::walk::run(data));
