#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringstone_fuzz::peer::run(data));
