//! What a static program must be able to do beside starting: threads, caught panics, memory of every size.
//!
//! Built like the program itself by `packaging/check.sh`, and run where there is nothing else.

use std::panic::catch_unwind;
use std::thread;

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let workers = (0..8u32).map(|number| {
        thread::spawn(move || {
            let caught = catch_unwind(|| {
                let deep = vec![vec![number; 1 << 16]; 64];
                assert!(deep.len() < 64, "unwound through what is dropped");
            });
            let message = caught.expect_err("it panics");
            assert!(message.downcast_ref::<&str>().is_some());
            (0..1000).map(|i| vec![0u8; i * 97].len()).sum::<usize>()
        })
    });
    let workers: Vec<_> = workers.collect();
    let sums: Vec<usize> = workers
        .into_iter()
        .map(|worker| worker.join().expect("the panic was caught"))
        .collect();
    assert_eq!(sums, [97 * 999 * 1000 / 2; 8]);
    println!("threads and caught panics work");
}
