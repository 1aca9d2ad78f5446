//! The header parser over any frame.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peertally_fuzz::parse::run(data));
