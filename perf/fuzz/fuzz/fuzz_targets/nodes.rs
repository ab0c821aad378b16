//! Feeds what the fuzzer makes up to the target `nodes`, under its limits.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| barrage_fuzz::judge("nodes", input));
