//! How long it takes. For whoever changes the speed: `PCS_MEASURE=older:newer` names two snapshots.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "prints figures about snapshots named by PCS_MEASURE"]
fn measured() {
    let both = std::env::var("PCS_MEASURE").expect("PCS_MEASURE=older:newer is set");
    let (older, newer) = both.split_once(':').expect("two paths");
    let (older, newer) = (File::open(older).unwrap(), File::open(newer).unwrap());
    for _ in 0..5 {
        let begun = Instant::now();
        let found = changes(older.as_fd(), newer.as_fd(), 1 << 20, &AbortFlag::new()).unwrap();
        println!(
            "{:8.2} ms, {} paths from {} commands",
            begun.elapsed().as_secs_f64() * 1e3,
            found.list().len(),
            found.commands
        );
    }
}
