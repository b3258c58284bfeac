//! Everything that takes bytes apart which somebody else has written, as functions over bytes: for
//! fuzzing, and for nothing else.
//!
//! `fuzz/` calls each with what a fuzzer finds, `tests/it/fuzz.rs` with the corpus and with random
//! changes of it. A target calls the very code that reads such bytes in a run, and fails (panics)
//! where that code panics or where what came of it cannot be: not only "it did not crash".

mod files;
mod kernel;
mod peer;
mod words;

/// One way in for foreign bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes the bytes and says whether they were understood; a panic is a finding.
    pub run: fn(&[u8]) -> bool,
    /// Directories of the repository with more that it should be tried with, beside its corpus.
    pub samples: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frames",
        run: peer::frames,
        samples: &[],
    },
    Target {
        name: "messages",
        run: peer::messages,
        samples: &[],
    },
    Target {
        name: "delta",
        run: peer::delta,
        samples: &[],
    },
    Target {
        name: "packing",
        run: peer::packing,
        samples: &[],
    },
    Target {
        name: "opening",
        run: peer::opening,
        samples: &[],
    },
    Target {
        name: "send_stream",
        run: kernel::send_stream,
        samples: &[],
    },
    Target {
        name: "filter",
        run: files::filter,
        samples: &[],
    },
    Target {
        name: "config",
        run: files::config,
        samples: &["tests/samples/config/valid", "tests/samples/config/invalid"],
    },
    Target {
        name: "history",
        run: files::history,
        samples: &[],
    },
    Target {
        name: "marks",
        run: files::marks,
        samples: &[],
    },
    Target {
        name: "log",
        run: files::log,
        samples: &[],
    },
    Target {
        name: "names",
        run: words::names,
        samples: &[],
    },
    Target {
        name: "managers",
        run: words::managers,
        samples: &["tests/samples/packages"],
    },
];

/// Runs the target called `name`: what a fuzzer calls.
///
/// # Panics
/// If there is no such target, and where the target finds something.
#[expect(
    clippy::must_use_candidate,
    reason = "a fuzzer looks at nothing but panics"
)]
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("fuzz targets are named as in the list").run)(bytes)
}
