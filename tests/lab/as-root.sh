#!/bin/bash
# as-root.sh CMD...: runs CMD as root, by sudo only if that is needed; status 77 if there is no way.
# Without a terminal nobody could type sudo's password, so then it must not need one.
set -euo pipefail

if [[ $EUID == 0 ]]; then exec "$@"; fi
if ! command -v sudo >/dev/null; then
  echo "needs root, and there is no sudo" >&2; exit 77; fi
if [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; then
  echo "needs root, and sudo asks for a password where nobody can type it" >&2; exit 77; fi
exec sudo --preserve-env=LAB_NAME,LAB_CACHE,LAB_BASE,LAB_OWNER,LAB_SUITE,LAB_TARGET_SUITE,CI,TERM,RUST_BACKTRACE,PC_SWITCHER_TEST_SEEDS,BENCH_RUNS,BENCH_FILES,BENCH_MEAN,BENCH_BIG,BENCH_MANY,BENCH_ONLY,BENCH_WIRES "$@"
