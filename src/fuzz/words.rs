//! Names, and what package managers print.

use crate::age::parse_age;
use crate::config::parse_rate;
use crate::escape::{escape_bytes, escape_str, is_unsafe};
use crate::modules::packages::apt::{policy, simulate, sources, version};
use crate::modules::packages::effects::Transaction;
use crate::modules::packages::snap;
use crate::record::anchor::LeftPath;
use crate::snapshot::name::SnapshotName;

/// A name of anything: what is shown of it is harmless, and what is kept of it can be read back.
pub(super) fn names(bytes: &[u8]) -> bool {
    let shown = escape_bytes(bytes);
    assert!(!shown.contains(is_unsafe));
    let kept = String::from(LeftPath(bytes.to_vec()));
    assert_eq!(LeftPath::try_from(kept), Ok(LeftPath(bytes.to_vec())));
    let text = String::from_utf8_lossy(bytes);
    assert!(!escape_str(&text).contains(is_unsafe));
    let snapshot = SnapshotName::parse(&text);
    if let Some(name) = &snapshot {
        assert_eq!(name.to_string(), text);
    }
    let is_figure = parse_age(&text).is_ok() | parse_rate(&text).is_ok();
    let _ = LeftPath::try_from(text.into_owned());
    snapshot.is_some() || is_figure
}

/// What apt and snap say, and files that say where packages come from.
pub(super) fn managers(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let policies = policy::parse(&text);
    for policy in policies.values() {
        let _ = policy.installed_origins();
    }
    let labels = policy::parse_labels(&text);
    let transaction = simulate::parse(&text, "amd64");
    let mut places = 0;
    for path in ["/etc/apt/sources.list", "/etc/apt/sources.list.d/a.sources"] {
        places += sources::parse(path, &text).len();
    }
    let snaps = snap::state::parse(&text);
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    if let [a, b, c] = words[..] {
        let order = version::compare(a, b);
        assert_eq!(order, version::compare(b, a).reverse());
        if order.is_le() && version::compare(b, c).is_le() {
            assert!(version::compare(a, c).is_le(), "{a} {b} {c}");
        }
    }
    let said = policies.len() + labels.len() + places;
    said > 0 || transaction != Transaction::default() || snaps.is_ok()
}
