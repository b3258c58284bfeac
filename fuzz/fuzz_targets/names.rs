#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pc_switcher::fuzz::run("names", bytes);
});
