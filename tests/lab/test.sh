#!/bin/bash
# test.sh [--it] [ARGS...]: every test, or the integration tests only; ARGS go to the test programs.
# The integration tests run as root (the lab), the others as whoever calls.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/lab
cargo=${CARGO:-cargo}
kinds=(--lib --bins --examples)
if [[ ${1:-} == --it ]]; then kinds=(); shift; fi

if [[ ${#kinds[@]} -gt 0 ]]; then
  "$cargo" test "${kinds[@]}" -- "$@"
  "$cargo" test --doc -- "$@"
fi
if ! reason=$("$here/as-root.sh" true 2>&1); then
  echo "The integration tests need two machines with btrfs: $reason."
  exec "$cargo" test --test it -- "$@" # skips what it must, and says so; with CI=true it fails
fi
if [[ $EUID != 0 ]]; then
  echo "The integration tests boot two machines on this one: they run under sudo."
  target=$("$cargo" -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${target}_RUNNER=$here/as-root.sh"
fi
rc=0; "$cargo" test --test it -- "$@" || rc=$?
"$here/as-root.sh" "$here/lab.sh" sweep # waits until the lab of the tests is gone
exit $rc
