#!/bin/bash
# bench.sh: pc-switcher against `rsync -aHAXS --delete --numeric-ids` over ssh, in turns, in the lab, for first copies
# against `tar | ssh tar`, and for changes against `btrfs send -p | ssh btrfs receive`, and, if it is installed here, against
# `unison`; prints the Markdown tables of BENCHMARKS.md. Takes about three quarters of an hour with the defaults.
#
#   BENCH_RUNS=3           runs of each at full speed, one over each wire; the table shows the median, and the extremes
#                          of the wall time
#   BENCH_FILES=100000     small files of the first copy, BENCH_MEAN=10737 bytes each on average (1 GiB)
#   BENCH_BIG=2147483648   bytes of the one large file
#   BENCH_TEXT=209715200   bytes of the one text into which a line is put
#   BENCH_MANY=1000000     files of the no-change run (0: leave it out)
#   BENCH_CHANGED=20000    of the small files are changed in one row
#   BENCH_ONLY=rsync|ours|tar|send|unison   one of them alone (tar makes first copies only, send carries changes only,
#                          unison what it can do within minutes)
#   BENCH_WIRES="off 1gbit,0.3ms 200mbit,3ms"   the wires, as for `lab.sh netem`
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/lab
if [[ ${1:-} != --built ]]; then
  "${CARGO:-cargo}" build --release --bin pc-switcher --example lab-files
  exec "$here/as-root.sh" "$here/bench.sh" --built
fi

runs=${BENCH_RUNS:-3} files=${BENCH_FILES:-100000} mean=${BENCH_MEAN:-10737} many=${BENCH_MANY:-1000000}
big=${BENCH_BIG:-2147483648} text=${BENCH_TEXT:-209715200} only=${BENCH_ONLY:-} wires=${BENCH_WIRES:-off 1gbit,0.3ms 200mbit,3ms}
changed=${BENCH_CHANGED:-20000}
first=(rsync tar ours) again=(rsync ours) change=(rsync send ours)
if [[ -n $only ]]; then first=("$only") again=("$only") change=("$only"); fi
if [[ $only == tar ]]; then again=() change=(); fi
if [[ $only == send ]]; then first=() again=(); fi
files_both=(unison) # what is compared with unison, too
if ! command -v unison >/dev/null; then files_both=(); echo "bench: unison is not installed: its table is left out" >&2; fi
if [[ $only == unison ]]; then first=() again=() change=(); elif [[ -n $only ]]; then files_both=(); fi
export LAB_NAME=pcs-bench-$$ LAB_SIZE=60G LAB_OWNER=$$
lab() { "$here/lab.sh" "$@"; }
say() { echo "bench: $*" >&2; }

results=$(mktemp)
cleanup() { trap '' INT TERM HUP; lab down; rm -f "$results"; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
lab sweep
lab up
lab put atlas target/release/pc-switcher /usr/local/bin/pc-switcher
if ((${#files_both[@]})); then for host in atlas vega; do lab put "$host" "$(command -v unison)" /usr/local/bin/unison; done; fi
files_tool=target/release/examples/lab-files
here_disk=$(lab disk atlas)/@home there_disk=$(lab disk vega)/@home

# ---------------------------------------------------------------- what is compared

# Our configuration for one folder of /home; gates are opened by flags, so that every run is like the first.
configure() { # FOLDER
  lab exec atlas sh -c 'mkdir -p /home/dev/.config/pc-switcher && cat >/home/dev/.config/pc-switcher/config.yaml && chown -R dev: /home/dev/.config' <<CONFIG
sync_modules: { user_data: true }
disk: { preflight_minimum: "1%", runtime_minimum: "1%", warning_threshold: "1%", check_interval: 30 }
btrfs_snapshots: { subvolumes: ["@home"], keep_recent: 1 }
user_data: { folders: [ { path: $1 } ] }
CONFIG
}
flags=() # of ours, besides the gates
ours() { # FOLDER
  configure "$1"
  measured lab as dev atlas pc-switcher --batch sync vega --yes --allow-first-sync --allow-out-of-order --allow-mass-delete --allow-conflicts "${flags[@]}"
  figures+=" $(mirror_seconds)"
}

# What user_data took of the last sync: comparing, and bringing over.
mirror_seconds() {
  local log
  log=$(find "$here_disk/dev/.local/state/pc-switcher/logs" -name 'sync-*.log' -printf '%T@ %p\n' | sort -n | sed -n '$ s/^[^ ]* //p')
  awk '
    function seconds(   at) { match($0, /T[0-9:.]+Z/); split(substr($0, RSTART + 1, RLENGTH - 2), at, ":"); return at[1] * 3600 + at[2] * 60 + at[3] }
    !/"module":"user_data"/ { next }
    /"scan":/ && match($0, /"seconds":[0-9.e-]+/) { compared += substr($0, RSTART + 10, RLENGTH - 10) }
    /"event":"module_started"/ { since = seconds() }
    /"event":"module_finished"/ { until = seconds() }
    END { if (until < since) until += 86400; print compared + until - since }' "$log"
}
rsync_flags=() # of rsync, besides the usual
kept='' # not empty: rsync and tar, too, end when everything is on the target's disk
rsync() { # FOLDER
  local there='sudo rsync'
  if [[ $kept ]]; then there="kept() { sudo rsync \"\$@\" && sync -f $1; }; kept"; fi
  measured lab exec atlas rsync -aHAXS --delete --numeric-ids "${rsync_flags[@]}" --rsync-path="$there" \
    -e 'ssh -i /home/dev/.ssh/id_ed25519 -o UserKnownHostsFile=/home/dev/.ssh/known_hosts' "$1/" "dev@vega:$1/"
}

tar() { # FOLDER
  local ssh='ssh -i /home/dev/.ssh/id_ed25519 -o UserKnownHostsFile=/home/dev/.ssh/known_hosts dev@vega' keep="--numeric-owner --acls --xattrs --xattrs-include='*'"
  # Both ends must succeed; -S keeps holes.
  measured lab exec atlas bash -euo pipefail -c "tar -C $1 $keep -S -cf - . | $ssh \"sudo tar -C $1 $keep -xpf - ${kept:+&& sync -f $1}\""
}

# As root on both sides, and not by size and time alone; what it knows of both is made by the first call.
unison() { # FOLDER
  measured lab exec atlas env UNISON=/root/.unison unison "$1" "ssh://dev@vega/$1" -batch -auto -silent -owner -group -numericids -times \
    -prefer "$1" -confirmbigdel=false -sshargs '-i /home/dev/.ssh/id_ed25519 -o UserKnownHostsFile=/home/dev/.ssh/known_hosts' \
    -addversionno=false -servercmd 'sudo env UNISON=/root/.unison /usr/local/bin/unison'
}

# What changed in all of /home since it was called last, into a snapshot nobody works in.
send() {
  measured lab exec atlas bash -euo pipefail -c '
    mkdir -p /sent; now=/sent/$EPOCHREALTIME before=$(find /sent -mindepth 1 -maxdepth 1)
    btrfs -q subvolume snapshot -r /home "$now"
    btrfs -q send ${before:+-p "$before"} "$now" | ssh -i /home/dev/.ssh/id_ed25519 -o UserKnownHostsFile=/home/dev/.ssh/known_hosts \
      dev@vega "sudo mkdir -p /received && sudo btrfs -q receive /received"
    if [[ -n $before ]]; then btrfs -q subvolume delete "$before"; fi'
  lab exec vega bash -c 'cd /received; for old in $(ls | sort -n | head -n -1); do btrfs -q subvolume delete "$old"; done'
}

# ---------------------------------------------------------------- measuring

measured() { # CMD...: runs it and leaves wall seconds, CPU seconds, peak resident KiB and bytes on the wire in `figures`
  local cpu_a cpu_v sent received t0 t1 sent1 received1 rc=0 rss watcher
  cpu_a=$(lab cpu atlas); cpu_v=$(lab cpu vega); read -r sent received < <(lab wire-bytes)
  coproc watcher { "$files_tool" watch "$(lab cgroup-path atlas)" "$(lab cgroup-path vega)"; }
  # shellcheck disable=SC2154 # coproc assigns it
  local from=${watcher[0]} to=${watcher[1]} pid=$watcher_PID
  t0=$EPOCHREALTIME
  "$@" >"$results.out" 2>&1 </dev/null || rc=$?
  t1=$EPOCHREALTIME
  exec {to}>&-
  read -r rss <&"$from" || rss="0 0"
  wait "$pid" || true
  read -r sent1 received1 < <(lab wire-bytes)
  if ((rc != 0 && rc != 8)); then tail -n 20 "$results.out" >&2; say "ended with status $rc: $*"; exit 1; fi
  figures="$(awk "BEGIN {print $t1 - $t0, ($(lab cpu atlas) - $cpu_a) / 1e6, ($(lab cpu vega) - $cpu_v) / 1e6}") $rss $((sent1 - sent + received1 - received))"
}

forget() { # what is cached goes to the disk, and for a cold run out of memory
  sync -f "$here_disk"; sync -f "$there_disk"
  if [[ $1 == cold ]]; then echo 3 >/proc/sys/vm/drop_caches; fi
}

forget_syncs() { # both machines, as if there had never been one
  local host
  for host in atlas vega; do
    lab exec "$host" sh -c 'rm -rf /var/lib/pc-switcher; for s in /.snapshots/*; do test ! -e "$s" || btrfs -q subvolume delete "$s"; done; btrfs subvolume sync /.snapshots'
  done
}

compare() { # NAME FOLDER warm|cold first|again|CHANGE TOOL...
  local name=$1 folder=$2 temperature=$3 kind=$4 run tool target=$there_disk${2#/home} tools=("${@:5}")
  # Nothing is to be changed, and each knows it: ours hashes once what another tool has written.
  if [[ $kind == again ]]; then for tool in "${tools[@]}"; do "$tool" "$folder"; done; fi
  for ((run = 1; run <= runs; run++)); do
    for tool in "${tools[@]}"; do
      if [[ $kind == first ]]; then forget_syncs; rm -rf "$target"; mkdir -p "$target"; fi
      # Each brings over what was changed since it has itself made both equal.
      if [[ $kind != first && $kind != again ]]; then "$tool" "$folder"; "$kind"; fi
      forget "$temperature"
      if [[ $temperature == warm ]]; then find "$here_disk${folder#/home}" -printf '%s %T@\n' >/dev/null; fi
      if [[ $temperature == warm && $kind != first ]]; then find "$target" -printf '%s %T@\n' >/dev/null; fi
      "$tool" "$folder"
      echo "$name|$tool|$figures" >>"$results"
      say "$name, $tool: $figures"
    done
  done
}

table() {
  echo "| what | wall rsync (s) | tar or send (s) | ours (s) | of it the mirror (s) | ours/rsync | ours/tar or send | CPU both ends rsync (s) | tar or send (s) | ours (s) | peak resident rsync (MiB) | ours (MiB) | wire rsync (MiB) | tar or send (MiB) | ours (MiB) |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
  awk -F'[| ]' -f - "$results" <<'AWK'
  function median(list, n,   a, i, j, t) {
    split(list, a, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] + 0 < a[j-1] + 0; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
    low = a[1]; high = a[n]; return n % 2 ? a[(n+1)/2] : (a[n/2] + a[n/2+1]) / 2
  }
  function cell(key, format) { return n[key] ? sprintf(format, median(v[key], n[key])) : "–" }
  function spread(key,   m) { if (!n[key]) return "–"; m = median(v[key], n[key]); return sprintf("%.2f (%.2f–%.2f)", m, low, high) }
  function add(key, value) { v[key] = v[key] " " value; n[key]++ }
  function ratio(a, b) { return n[a] && n[b] ? sprintf("%.2f", median(v[a], n[a]) / median(v[b], n[b])) : "–" }
  {
    split($0, part, "|"); name = part[1]; tool = part[2]; split(part[3], f, " ")
    if (tool == "unison") next
    if (!(name in seen)) { seen[name] = 1; order[++count] = name }
    add(name tool "wall", f[1]); add(name tool "cpu", f[2] + f[3])
    add(name tool "rss", (f[4] > f[5] ? f[4] : f[5]) / 1024); add(name tool "wire", f[6] / 1048576)
    if (tool == "ours") add(name tool "mirror", f[7])
  }
  END {
    for (i = 1; i <= count; i++) {
      r = order[i] "rsync"; t = order[i] (order[i] ~ /^first copy/ ? "tar" : "send"); o = order[i] "ours"
      printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", order[i], spread(r "wall"), spread(t "wall"), spread(o "wall"), cell(o "mirror", "%.2f"),
        ratio(o "wall", r "wall"), ratio(o "wall", t "wall"), cell(r "cpu", "%.1f"), cell(t "cpu", "%.1f"), cell(o "cpu", "%.1f"),
        cell(r "rss", "%.0f"), cell(o "rss", "%.0f"), cell(r "wire", "%.1f"), cell(t "wire", "%.1f"), cell(o "wire", "%.1f")
    }
  }
AWK
}

table_of_unison() {
  echo; echo "| what | wall unison (s) | CPU both ends (s) | peak resident (MiB) | wire (MiB) |"
  echo "|---|---|---|---|---|"
  awk -F'[|]' '$2 == "unison" {
    split($3, f, " "); printf "| %s | %.2f | %.1f | %.0f | %.1f |\n", $1, f[1], f[2] + f[3], (f[4] > f[5] ? f[4] : f[5]) / 1024, f[6] / 1048576 }' "$results"
}

edit_image() { edits=$((edits + 1)); "$files_tool" edit "$here_disk/bench/large/one.img" 1 "$edits"; }
edits=0
put_line_in() { # at the head of the text, as an editor does: into a new file
  local old=$here_disk/bench/text/text
  { echo "line $EPOCHREALTIME"; cat "$old"; } >"$old.new"; chown 1000:1000 "$old.new"; mv "$old.new" "$old"
}

rename_directory() { # with all that is in it
  local top=$here_disk/bench/renamed
  if [[ -e $top/a ]]; then mv "$top/a" "$top/b"; else mv "$top/b" "$top/a"; fi
}

touch_files() { # DIRECTORY COUNT: a line more in so many, evenly strewn
  local every
  every=$(($(find "$1" -type f -printf x | wc -c) / $2))
  find "$1" -type f -print0 | sort -z | awk -v RS='\0' -v ORS='\0' -v every="$every" -v most="$2" 'NR % every == 0 && n++ < most' |
    xargs -0 -n 1000 sh -c 'date +%s.%N | tee -a "$@" >/dev/null' sh
}
change_some() { touch_files "$here_disk/bench/small" "$changed"; }
change_hundred() { touch_files "$here_disk/bench/many" 100; }

small_costs() { # ours alone: what a start and an empty sync cost
  local run t0 t1 list=()
  for run in 1 2 3 4 5; do
    t0=$EPOCHREALTIME; lab exec atlas true; t1=$EPOCHREALTIME; lab exec atlas pc-switcher --help >/dev/null
    list+=("$(awk "BEGIN {print ($EPOCHREALTIME - $t1 - ($t1 - $t0)) * 1000}")")
  done
  echo; echo "\`--help\`: $(printf '%s\n' "${list[@]}" | sort -n | sed -n 3p) ms (median of 5, without entering the machine)."
  lab exec atlas sh -c 'cat >/home/dev/.config/pc-switcher/config.yaml' <<'CONFIG'
sync_modules: { dummy_success: true }
dummy_success: { source_duration: 0, target_duration: 0 }
btrfs_snapshots: { subvolumes: ["@home"], keep_recent: 1 }
CONFIG
  list=()
  for run in 1 2 3 4 5; do
    measured lab as dev atlas pc-switcher --batch sync vega --yes --allow-first-sync --allow-out-of-order
    list+=("${figures%% *}")
  done
  echo "A sync of dummies only, agent deployment included: $(printf '%s\n' "${list[@]}" | sort -n | sed -n 3p) s (median of 5)."
}

# ---------------------------------------------------------------- the runs

mkdir -p "$here_disk"/bench/{small,large,text,renamed/a}
"$files_tool" many "$here_disk/bench/small" "$files" "$mean"
"$files_tool" one "$here_disk/bench/large" "$big"
"$files_tool" text "$here_disk/bench/text" "$text"
"$files_tool" many "$here_disk/bench/renamed/a" "$files" 200
if ((many > 0)); then mkdir "$here_disk/bench/many"; "$files_tool" many "$here_disk/bench/many" "$many" 200; fi

for wire in $wires; do
  lab netem ${wire/,/ }
  label=$wire; if [[ $wire == off ]]; then label="full speed"; fi
  runs=${BENCH_RUNS:-3}; if [[ $wire != off ]]; then runs=1; fi
  compare "first copy, $files files, $label" /home/bench/small warm first "${first[@]}"
  compare "no change, $files files, warm, $label" /home/bench/small warm again "${again[@]}"
  compare "no change, $files files, cold, $label" /home/bench/small cold again "${again[@]}"
  compare "$changed of $files files changed, $label" /home/bench/small warm change_some "${change[@]}"
  if ((${#files_both[@]})) && [[ $wire == off ]]; then
    mkdir -p "$there_disk/bench"; lab exec vega chown dev: /home/bench
    runs=1 compare "no change, $files files, warm, $label" /home/bench/small warm again unison
    runs=1 compare "$changed of $files files changed, $label" /home/bench/small warm change_some unison
    runs=1 compare "1 % of the blocks of $((big >> 20)) MiB changed, $label" /home/bench/large warm edit_image unison
  fi
  compare "first copy, one file of $((big >> 20)) MiB, $label" /home/bench/large warm first "${first[@]}"
  # Where all wait for the line, the disk makes no difference.
  if [[ ${#first[@]} == 3 && $wire != 200mbit* ]]; then
    kept=1
    compare "first copy, $files files, all on the target's disk, $label" /home/bench/small warm first rsync tar ours
    compare "first copy, one file of $((big >> 20)) MiB, all on the target's disk, $label" /home/bench/large warm first rsync tar ours
    kept=''
  fi
  compare "1 % of the blocks of $((big >> 20)) MiB changed, $label" /home/bench/large warm edit_image "${change[@]}"
  compare "a line put in at the head of $((text >> 20)) MiB, $label" /home/bench/text warm put_line_in "${change[@]}"
  compare "a directory of $files files renamed, $label" /home/bench/renamed warm rename_directory "${change[@]}"
  if [[ " ${again[*]} " == *" rsync "* ]]; then
    rsync_flags=(--inplace)
    compare "1 % of the blocks of $((big >> 20)) MiB changed, rsync --inplace, $label" /home/bench/large warm edit_image rsync
    compare "a line put in at the head of $((text >> 20)) MiB, rsync --inplace, $label" /home/bench/text warm put_line_in rsync
    rsync_flags=()
  fi
  if ((many > 0)) && [[ $wire != *mbit* ]]; then
    compare "no change, $many files, warm, $label" /home/bench/many warm again "${again[@]}"
    compare "no change, $many files, cold, $label" /home/bench/many cold again "${again[@]}"
  fi
  if ((many > 0)) && [[ $wire == off ]]; then
    compare "100 of $many files changed, warm, $label" /home/bench/many warm change_hundred "${change[@]}"
    compare "100 of $many files changed, cold, $label" /home/bench/many cold change_hundred "${change[@]}"
    if [[ " ${again[*]} " == *" ours "* ]]; then
      # Without the anchor, as after a month, or after a sync with another machine in between.
      flags=(--full-scan)
      compare "no change, $many files, full scan, warm, $label" /home/bench/many warm again ours
      compare "no change, $many files, full scan, cold, $label" /home/bench/many cold again ours
      flags=()
    fi
  fi
done
lab netem off

echo "$(nproc) CPUs ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), $(awk '/MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo) GiB, Linux $(uname -r);"
echo "$(lab exec atlas rsync --version | awk 'NR == 1 {print $1, $3}') on both machines; median of ${BENCH_RUNS:-3} runs in turns at full speed, one run over each wire. Made by \`make bench\`."
echo
table
if ((${#files_both[@]})); then table_of_unison; fi
if [[ " ${first[*]} " == *" ours "* ]]; then small_costs; fi
