#!/bin/bash
# check.sh: proves what is said of the static program, the package and the tarball. Needs root for two machines in the lab:
# one installs the package, the other is a newer Debian that has nothing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo=${CARGO:-cargo}
tests/lab/need.sh build lab package
root() { tests/lab/as-root.sh "$@"; }
step() { printf '\n==> %s (after %s s)\n' "$*" "$SECONDS"; }
fail() { echo "package-check: $*" >&2; exit 1; }
largest=$((8 << 20)) # of the program, in bytes
slowest=10           # of `--help`, in milliseconds

scratch=$(mktemp -d)
export LAB_NAME=pcs-package-$$ LAB_TARGET_SUITE=${LAB_TARGET_SUITE:-trixie}
lab() { root tests/lab/lab.sh "$@"; }
cleanup() { trap '' INT TERM HUP; lab down; root rm -rf --one-file-system "$scratch"; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step "The static program"
binary=$(packaging/static.sh)
file -b "$binary"
headers=$(readelf -lW "$binary")
if grep -q INTERP <<<"$headers"; then fail "the program wants an interpreter"; fi
if readelf -dW "$binary" | grep NEEDED; then fail "the program wants other files"; fi
if readelf -SW "$binary" | grep -q '\.symtab'; then fail "the program is not stripped"; fi
size=$(stat -c %s "$binary")
echo "$size bytes"
((size <= largest)) || fail "larger than $largest bytes"

step "It runs where there is nothing else"
mkdir "$scratch/root"
cp "$binary" "$scratch/root/pc-switcher"
root chroot "$scratch/root" /pc-switcher --version
root chroot "$scratch/root" /pc-switcher completions fish >/dev/null
probe=$(packaging/static.sh --probe)
cp "$probe" "$scratch/root/probe"
root chroot "$scratch/root" /probe

step "--help takes"
# A machine that does other things makes single runs slow; no machine makes a slow program quick.
times=()
for _ in {1..51}; do
  from=$EPOCHREALTIME; "$binary" --help >/dev/null; to=$EPOCHREALTIME
  times+=($(((${to/./} - ${from/./}))))
done
mapfile -t times < <(printf '%s\n' "${times[@]}" | sort -n)
echo "${times[0]} µs (the quickest of 51; median ${times[25]})"
((times[0] < slowest * 1000)) || fail "more than $slowest ms"

step "The package"
deb=$(packaging/deb.sh)
ls -l "$deb"
dpkg-deb --info "$deb" | sed -n '/^ Package/,$p'
dpkg-deb --contents "$deb" | awk '{print $1, $6}'
lintian --fail-on error --display-info --tag-display-limit 0 "$deb"

step "The tarball"
tarball=$(packaging/release.sh)
cp "$tarball" "$scratch/once.tar.gz"
packaging/release.sh >/dev/null
cmp "$tarball" "$scratch/once.tar.gz"
(cd "${tarball%/*}" && sha256sum --check ./*.sha256)

step "Two machines: the package on atlas, nothing on vega, which is a $LAB_TARGET_SUITE"
LAB_OWNER=$$ lab up
lab put atlas "$deb" /root/pc-switcher.deb
lab exec atlas dpkg --install /root/pc-switcher.deb
lab exec vega sh -c '. /etc/os-release && echo "vega: $PRETTY_NAME"'
lab exec atlas sh -c '. /etc/os-release && echo "atlas: $PRETTY_NAME"'
lab exec atlas sh -c 'pc-switcher --version && zcat /usr/share/man/man1/pc-switcher-sync.1.gz | head -n 2'
step "dev@atlas\$ pc-switcher init"
lab as dev atlas pc-switcher init
line=$(lab as dev atlas pc-switcher init --sudoers)
[[ $line == "dev ALL=(root) NOPASSWD: /usr/bin/pc-switcher agent" ]] || fail "the line for sudoers: $line"
lab exec atlas sh -c 'cd /usr/share/doc/pc-switcher/examples && ls config.yaml home.filter root.filter systemd/*'
lab exec atlas sh -c 'cp /usr/share/doc/pc-switcher/examples/systemd/pc-switcher@.service /run/pc-switcher@vega.service &&
  systemd-analyze verify --man=no /run/pc-switcher@vega.service; rm /run/pc-switcher@vega.service'
# The lab's disks are small files on a full disk of somebody.
lab as dev atlas sed -i 's/minimum: "[0-9]*%"/minimum: "1%"/' .config/pc-switcher/config.yaml
# Software only converges between equal releases, and says so.
if [[ $LAB_TARGET_SUITE != "$(. /etc/os-release && echo "$VERSION_CODENAME")" ]]; then
  status=0
  lab as dev atlas pc-switcher --batch doctor vega >"$scratch/doctor" || status=$?
  ((status == 3)) && grep -q -- '--skip packages' "$scratch/doctor" || fail "packages between two releases: status $status"
  lab as dev atlas sed -i 's/^  packages: true/  packages: false/' .config/pc-switcher/config.yaml
fi
disk=$(lab disk atlas) other=$(lab disk vega)
"$cargo" build --quiet --release --example lab-files
root install -d -o 1000 -g 1000 "$disk/@home/dev/work"
root target/release/examples/lab-files awkward "$disk/@home/dev/work"
compare() { root target/release/examples/lab-files compare "$disk/@home/dev/work" "$other/@home/dev/work"; }
sync_from() { # HOST TO FLAG
  local status=0
  lab as dev "$1" pc-switcher sync "$2" --batch --yes "$3" || status=$?
  ((status == 0 || status == 8)) || fail "the sync from $1 to $2 ended with status $status"
}
step "dev@atlas\$ pc-switcher doctor vega"
status=0
lab as dev atlas pc-switcher --batch doctor vega || status=$?
((status == 0 || status == 8)) || fail "doctor ended with status $status"
step "dev@atlas\$ pc-switcher sync vega"
sync_from atlas vega --allow-first-sync
compare
step "dev@vega\$ pc-switcher sync atlas"
lab exec vega sh -c 'cmp /usr/local/bin/pc-switcher -' <"$binary"
lab as dev vega sh -c 'echo "from the other side" >work/answer'
sync_from vega atlas --allow-mass-delete
compare
[[ $(root cat "$disk/@home/dev/work/answer") == "from the other side" ]] || fail "what vega wrote did not come back"

step "The package leaves nothing behind"
lab exec atlas dpkg --purge pc-switcher
left=$(lab exec atlas find /usr -name '*pc-switcher*')
[[ -z $left ]] || fail "left: $left"
step "All of it holds"
