#!/bin/bash
# test.sh [ARGS...]: every test. The integration tests run as root (the lab), the others as whoever calls.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/lab
cargo=${CARGO:-cargo}

if [[ $EUID == 0 ]]; then
  rc=0; "$cargo" test "$@" || rc=$?
  "$here/lab.sh" sweep # waits until the lab of the tests is gone
  exit $rc
fi

"$cargo" test --lib --bins "$@"
"$cargo" test --doc "$@"
if reason=$("$here/as-root.sh" true 2>&1); then
  echo "The integration tests boot two machines on this one: they run under sudo."
  target=$("$cargo" -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  rc=0; env "CARGO_TARGET_${target}_RUNNER=$here/as-root.sh" "$cargo" test --test it "$@" || rc=$?
  "$here/as-root.sh" "$here/lab.sh" sweep
  exit $rc
fi
echo "The integration tests need two machines with btrfs: $reason."
"$cargo" test --test it "$@"
