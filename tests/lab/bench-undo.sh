#!/bin/bash
# bench-undo.sh: what undoing and looking cost, in the lab, over ssh as a person types it; prints a Markdown table with the limit of each
# row, and fails if one is missed or a tree is not what it was. With the defaults it takes about half an hour and 15 GiB.
#
#   BENCH_FILES=1000000    files of 200 bytes on average, 20 to 100 in a directory
#   BENCH_CHANGED=100      so many of them are changed before the small rollback
#   BENCH_RUNS=3           runs of what is short; the table shows the median, and the extremes
#   BENCH_PROGRAM=target/release/pc-switcher   what is measured
#
# A time is that of the whole command: started in the machine, agents, connection, answer, end. What is cached stays cached, as
# on a machine in use; what was written before goes to the disk first.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/lab
if [[ ${1:-} != --built ]]; then
  if [[ -z ${BENCH_PROGRAM:-} ]]; then "${CARGO:-cargo}" build --release --bin pc-switcher --example lab-files; fi
  exec "$here/as-root.sh" "$here/bench-undo.sh" --built
fi

files=${BENCH_FILES:-1000000} changed=${BENCH_CHANGED:-100} runs=${BENCH_RUNS:-3}
program=${BENCH_PROGRAM:-target/release/pc-switcher}
files_tool=$(dirname "$program")/examples/lab-files
export LAB_NAME=pcs-undo-$$ LAB_SIZE=40G LAB_OWNER=$$
lab() { "$here/lab.sh" "$@"; }
say() { echo "bench-undo: $*" >&2; }

results=$(mktemp)
cleanup() { trap '' INT TERM HUP; lab down; rm -f "$results" "$results".*; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
lab sweep
lab up
lab put atlas "$program" /usr/local/bin/pc-switcher
there=$(lab disk vega)
here_home=$(lab disk atlas)/@home there_home=$there/@home
lab exec atlas sh -c 'mkdir -p /home/dev/.config/pc-switcher && cat >/home/dev/.config/pc-switcher/config.yaml && chown -R dev: /home/dev/.config' <<'CONFIG'
sync_modules: { user_data: true }
disk: { preflight_minimum: "1%", runtime_minimum: "1%", warning_threshold: "1%", check_interval: 30 }
btrfs_snapshots: { subvolumes: ["@home"], keep_recent: 3 }
user_data: { folders: [ { path: /home/bench } ] }
CONFIG

# ---------------------------------------------------------------- measuring

timed() { # ARGS...: runs pc-switcher on atlas; wall seconds in `wall`
  local begin rc=0
  sync -f "$here_home"; sync -f "$there_home"
  begin=$EPOCHREALTIME
  lab as dev atlas pc-switcher --batch "$@" >"$results.out" 2>&1 </dev/null || rc=$?
  wall=$(awk "BEGIN {printf \"%.2f\", $EPOCHREALTIME - $begin}")
  if ((rc != 0 && rc != 8)); then tail -n 20 "$results.out" >&2; say "ended with status $rc: $*"; exit 1; fi
}
sync_over() { timed sync vega --yes --allow-first-sync --allow-out-of-order --allow-mass-delete --allow-conflicts; }
note() { # WHAT LIMIT: keeps what was measured last; a limit of - is none
  echo "$1|$2|$wall" >>"$results"
  say "$1: $wall s"
}
remember() { # keeps the target's home as it is, for the judges
  if [[ -e $there/before ]]; then
    btrfs -q subvolume delete "$there/before"
    # What the judges leave behind is no part of what is measured: the kernel is still busy with it for seconds.
    btrfs subvolume sync "$there" >/dev/null
  fi
  btrfs -q subvolume snapshot -r "$there_home" "$there/before"
}
judge() { # WHAT: the target's home is what it was
  local left=$there/before/bench right=$there_home/bench
  rsync -aHAXScni -@-1 --delete --numeric-ids "$left/" "$right/" >"$results.rsync"
  if [[ -s $results.rsync ]]; then head "$results.rsync" >&2; say "$1: not what it was, says rsync"; exit 1; fi
  "$files_tool" compare "$left" "$right" >&2 || { say "$1: not what it was, says our reader"; exit 1; }
}
touched() { find "$here_home/bench" -type f -print0 | "$@"; } # paths on stdin, each ended by NUL
change_some() { # every so many-th file has other content
  edits=$((edits + 1))
  touched perl -0ne 'BEGIN {($every, $n) = splice @ARGV, 0, 2} chomp; next if $. % $every; open F, ">>", $_ or die; print F "edit $n\n"; close F' -- "$1" "$edits"
}
edits=0

# ---------------------------------------------------------------- the runs

mkdir "$here_home/bench" "$there_home/bench"
say "making $files files"
"$files_tool" many "$here_home/bench" "$files" 200
chown -R 1000:1000 "$here_home/bench" "$there_home/bench"
remember
sync_over; first=$wall; note "sync that creates all $files files" -
timed rollback --yes; note "its rollback" "$first"
judge "the rollback of a first copy"
sync_over
for ((run = 1; run <= runs; run++)); do
  remember
  change_some $((files / changed))
  timed status; note "\`status\`, $changed files changed since" 2
  timed status vega; note "\`status vega\`" 2
  sync_over; note "sync that changes $changed of $files files" -
  timed history --json >/dev/null
  session=$(grep -o '"session":"[0-9a-f]*"' "$results.out" | tail -n 1 | cut -d'"' -f4)
  timed history "$session"; note "\`history SESSION\` of it" -
  timed rollback --yes; note "its rollback, changing $changed of $files files" 5
  judge "the rollback of a small sync"
done
sync_over
remember
change_some 1
sync_over; all=$wall; note "sync that changes all $files files" -
timed rollback --yes; note "its rollback, changing all $files files" "$all"
judge "the rollback of a large sync"

echo "| what | wall (s) | limit (s) | |"
echo "|---|---|---|---|"
awk -F'|' '
  function sorted(list, n,   i, j, t) {
    split(list, a, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] + 0 < a[j-1] + 0; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
    return n % 2 ? a[(n+1)/2] : (a[n/2] + a[n/2+1]) / 2
  }
  { if (!($1 in n)) order[++count] = $1; limit[$1] = $2; v[$1] = v[$1] " " $3; n[$1]++ }
  END {
    for (i = 1; i <= count; i++) {
      w = order[i]; m = sorted(v[w], n[w]); spread = n[w] > 1 ? sprintf(" (%.2f–%.2f)", a[1], a[n[w]]) : ""
      kept = limit[w] == "-" ? "" : m <= limit[w] + 0 ? "kept" : "MISSED"
      if (kept == "MISSED") missed = 1
      printf "| %s | %.2f%s | %s | %s |\n", w, m, spread, limit[w] == "-" ? "–" : limit[w], kept
    }
    exit missed
  }' "$results"
