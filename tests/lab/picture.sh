#!/bin/bash
# picture.sh [DIRECTORY]: records the pictures of README.md, into docs/, from a real sync between two machines of the lab.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ ${1:-} != --built ]]; then
  "${CARGO:-cargo}" build --release --bin pc-switcher --example lab-files --example lab-picture
  exec tests/lab/as-root.sh tests/lab/picture.sh --built "${1:-docs}"
fi
to=$(readlink -f "$2")
here=tests/lab tools=target/release/examples
export LAB_NAME=pcs-picture-$$ LAB_OWNER=$$
lab() { "$here/lab.sh" "$@"; }
cleanup() { trap '' INT TERM HUP; lab down; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
lab up
lab put atlas target/release/pc-switcher /usr/local/bin/pc-switcher

# A home as people have one, and what an older one on the other machine still has.
fill() { mkdir -p "$1"; "$tools/lab-files" many "$1" "$2" "$3"; }
home=$(lab disk atlas)/@home/dev
fill "$home/Documents" 900 40000
fill "$home/Pictures" 300 900000
fill "$home/work/firmware" 4000 6000
mkdir "$home/Videos"
for film in harbour garden; do head -c 90M /dev/urandom >"$home/Videos/$film.mkv"; done
fill "$(lab disk vega)/@home/dev/Documents/old" 40 20000
lab exec atlas chown -R dev: /home/dev
lab exec vega chown -R dev: /home/dev
lab as dev atlas pc-switcher init >/dev/null
# The lab's disks are sparse files, of which nobody knows how full they are.
lab as dev atlas sed -i 's/minimum: "[0-9]*%"/minimum: "1%"/; s/threshold: "[0-9]*%"/threshold: "1%"/' .config/pc-switcher/config.yaml
lab netem 1gbit 1ms

# The prompt of the shell is ours; all else is what the program writes.
record() { # COMMAND ARGUMENTS OF lab-picture...
  local command=$1 status=0
  shift
  "$tools/lab-picture" 100x50 "$@" -- "$here/lab.sh" as dev atlas bash -c \
    "printf '\\033[32mdev@atlas\\033[0m:\\033[34m~\\033[0m\$ %s\\n' '$command'; export LANG=C.UTF-8; exec $command" || status=$?
  ((status == 0 || status == 8)) || { echo "picture.sh: status $status: $command" >&2; exit 1; }
}
mkdir -p "$to"
# Two questions: the first sync, and the configuration that vega has not got yet.
record 'pc-switcher sync vega' --type 'make vega like atlas' 'c\n' --type 'Which configuration' 't\n' \
  --shot 'garden.mkv' "$to/watching.svg" --end "$to/sync.svg"
ls -l "$to"/*.svg
