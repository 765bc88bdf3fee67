#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracer::fuzzing::client_hello(data));
