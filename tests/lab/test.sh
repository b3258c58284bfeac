#!/bin/bash
# test.sh [--it] [ARGS...]: every test, or the integration tests only; ARGS go to the test programs.
# They are built as whoever calls and run as root where that can be had: a fifth of the unit tests want a btrfs of their own,
# the integration tests two machines.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/lab
cargo=${CARGO:-cargo}
# What a script starts with `&` ignores Ctrl-C for good, and so do its children: tests that press it would fail.
ignored=$(sed -n 's/^SigIgn:[[:space:]]*//p' /proc/self/status)
if ((0x${ignored:-0} & 2)) && env --default-signal=INT,QUIT true 2>/dev/null; then
  exec env --default-signal=INT,QUIT "$here/test.sh" "$@"
fi
kinds=(--lib --bins --examples)
if [[ ${1:-} == --it ]]; then kinds=(); shift; fi

lab=true
if ! reason=$("$here/as-root.sh" true 2>&1); then
  lab=
  echo "What needs root (a fifth of the unit tests, most of the others) says so and is skipped: $reason."
elif [[ $EUID != 0 ]]; then
  echo "Tests mount disks and boot two machines on this one: they run under sudo."
  target=$("$cargo" -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${target}_RUNNER=$here/as-root.sh"
fi
if [[ ${#kinds[@]} -gt 0 ]]; then
  "$cargo" test "${kinds[@]}" -- "$@"
  "$cargo" test --doc -- "$@"
fi
rc=0; "$cargo" test --test it -- "$@" || rc=$?
if [[ -n $lab ]]; then "$here/as-root.sh" "$here/lab.sh" sweep; fi # waits until the lab of the tests is gone
exit $rc
