#!/bin/bash
# demo.sh: two real machines on this one, a home full of awkward files, one sync, the proof; then all of it goes.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/lab
export LAB_NAME=pcs-demo-$$
root() { "$here/as-root.sh" "$@"; }
lab() { root "$here/lab.sh" "$@"; }
step() { printf '\n==> %s\n' "$*"; }

if ! reason=$(root true 2>&1); then
  echo "The demo boots two machines (loop devices, btrfs, namespaces): $reason." >&2; exit 1; fi
if ! grep -qw btrfs /proc/filesystems && ! root modprobe btrfs 2>/dev/null; then
  echo "The demo's machines have btrfs disks, and this kernel has no btrfs." >&2; exit 1; fi

step "Building"
"${CARGO:-cargo}" build --release --bin pc-switcher --example lab-files

cleanup() {
  trap '' INT TERM HUP
  step "Cleaning up"
  lab down
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step "Booting atlas and vega (the first time builds their root file system)"
lab sweep
LAB_OWNER=$$ lab up
lab put atlas target/release/pc-switcher /usr/local/bin/pc-switcher

step "Filling dev's home on atlas with awkward files"
disk=$(lab disk atlas); other=$(lab disk vega)
root target/release/examples/lab-files awkward "$disk/@home/dev"
lab exec atlas install -d -o dev -g dev /home/dev/.config /home/dev/.config/pc-switcher
lab exec atlas sh -c 'cat >/home/dev/.config/pc-switcher/config.yaml' <<'CONFIG'
sync_modules: { user_data: true }
btrfs_snapshots: { subvolumes: ["@", "@home"] }
user_data: { folders: [ { path: /home, filter: home.filter } ] }
CONFIG
# What belongs to a machine: its keys, and the logs and settings of this very run.
lab exec atlas sh -c 'cat >/home/dev/.config/pc-switcher/home.filter' <<'FILTER'
- /dev/.ssh/
- /dev/.config/pc-switcher/
- /dev/.local/
FILTER
lab exec atlas chown -R dev: /home/dev/.config

step 'dev@atlas$ pc-switcher sync vega --allow-first-sync --yes'
status=0; lab as dev atlas pc-switcher sync vega --allow-first-sync --yes || status=$?
if ((status != 0 && status != 8)); then echo "The sync ended with status $status." >&2; exit 1; fi

step "The proof: rsync, asked to make vega equal to atlas, content and nanoseconds compared, would do this:"
# Paths beyond PATH_MAX are beyond rsync; the second proof reads them too.
would=$(root rsync -aHAXScni -@-1 --delete --numeric-ids --exclude=/dev/.ssh --exclude=/dev/.config/pc-switcher \
  --exclude=/dev/.local --exclude=/dev/deep "$disk/@home/" "$other/@home/")
if [[ -n $would ]]; then
  head -n 20 <<<"$would"; echo "Both homes differ in $(wc -l <<<"$would") places: the proof failed." >&2; exit 1; fi
echo "(nothing)"
step "And what rsync does not see: flags, holes, hard-link groups, paths beyond PATH_MAX"
root target/release/examples/lab-files compare "$disk/@home" "$other/@home" dev/.ssh dev/.config/pc-switcher dev/.local
