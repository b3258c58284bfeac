#!/bin/bash
# lab.sh: two real machines, `atlas` (source) and `vega` (target), on one Linux kernel.
#
# Each has its own loop-mounted btrfs disk (@, @home, .snapshots), its own pid, mount, uts, ipc, network and
# cgroup namespaces, systemd as pid 1, sshd and sudo. Both have a user `dev` (passwordless sudo) whose key
# and host keys are known on the other machine. No traffic leaves the namespaces.
#
#   lab.sh up | down             create and boot both / stop both and remove everything
#   lab.sh hold                  up, print "ready", wait for the end of stdin, down: whoever holds the other end owns the lab
#   lab.sh reset                 both machines as they were after `up`, freshly booted, in about a second
#   lab.sh sweep                 take down labs whose owner died (of any LAB_NAME below LAB_BASE)
#   lab.sh build                 build the cached root file system (done by `up` when missing; about a minute)
#   lab.sh status | list
#   lab.sh exec HOST CMD...      run CMD as root inside HOST (stdin, stdout and stderr pass through)
#   lab.sh as USER HOST CMD...   run CMD as USER in a login-like environment inside HOST
#   lab.sh put HOST SRC DST      copy one file into HOST (mode kept)       lab.sh get HOST SRC DST
#   lab.sh disk HOST             print where HOST's disk is mounted outside (top level: @, @home, .snapshots)
#   lab.sh ssh-config            print an ssh config that reaches both machines from outside
#   lab.sh netexec HOST CMD...   run a program of the outer system inside HOST's network namespace
#   lab.sh netem RATE RTT [LOSS%] [BUFFER_KIB]     shape the wire: 1gbit 0.3ms | 200mbit 3ms | 50mbit 30ms 0.5%
#   lab.sh netem off             unshaped
#   lab.sh wire-bytes            bytes atlas has sent and received so far
#   lab.sh cpu HOST              CPU time HOST has used so far, microseconds
#   lab.sh cgroup-path HOST      where HOST's control group is outside
#   lab.sh cut [down|drop] [HOST]   dead network: carrier lost (default), or a silent black hole
#   lab.sh heal                  undo `cut`
#   lab.sh stop|start|restart|wait HOST   clean shutdown / boot / both / until sshd answers
#   lab.sh reboot HOST           it reboots by itself, as with `reboot` inside, and has booted
#   lab.sh kill HOST             SIGKILL of everything in HOST; the disk keeps all that was written
#   lab.sh powercut HOST         like pulling the plug: the disk keeps only what had reached it
#
# Environment: LAB_NAME  several labs run side by side under different names (default pcslab)
#   LAB_SIZE   size of each disk, sparse (20G)       LAB_SUITE  Debian or Ubuntu release (default: this system's own,
#   LAB_EXTRA  extra packages, comma separated                  so that programs built here run there)
#   LAB_CACHE  the root file system's tarball        LAB_BASE   disks and state of running labs
#   LAB_OWNER  pid the lab belongs to, for `sweep`   LAB_SNAPSHOTS=absent  no .snapshots subvolume
#   LAB_TARGET_SUITE  vega's release, if it is not that of atlas (trixie)
set -euo pipefail
shopt -s inherit_errexit

SELF=$(readlink -f "${BASH_SOURCE[0]}")
HERE=${SELF%/*}
LAB_NAME=${LAB_NAME:-pcslab}
LAB_CACHE=${LAB_CACHE:-/var/cache/pc-switcher-lab}
LAB_BASE=${LAB_BASE:-/var/tmp/pc-switcher-lab}
LAB_SIZE=${LAB_SIZE:-20G}
LAB_SUITE=${LAB_SUITE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")}
LAB_EXTRA=${LAB_EXTRA:-}
LAB_OWNER=${LAB_OWNER:-}
LAB_SNAPSHOTS=${LAB_SNAPSHOTS:-subvolume}
LAB_TARGET_SUITE=${LAB_TARGET_SUITE:-$LAB_SUITE}
export LAB_NAME LAB_CACHE LAB_BASE LAB_SIZE LAB_SUITE LAB_EXTRA LAB_SNAPSHOTS LAB_TARGET_SUITE

DIR=$LAB_BASE/$LAB_NAME # everything of one running lab
WIRE=$LAB_NAME-wire     # the network namespace between the machines
HOSTS=(atlas vega)
declare -A ADDR=([atlas]=10.77.0.1 [vega]=10.77.0.2)
SAFE_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PACKAGES=systemd-sysv,dbus,libpam-systemd,openssh-server,openssh-client,sudo,btrfs-progs,rsync,procps,acl,attr,e2fsprogs,iproute2,iputils-ping,netcat-openbsd,less,flatpak,gpg,gpg-agent
MADE_AS=$(printf %s "$PACKAGES,$LAB_EXTRA" "$(sed -n '/^customise()/,/^}/p' "$SELF")" | md5sum | cut -c1-8)

# ---------------------------------------------------------------- small helpers

say() { echo "lab: $*" >&2 || true; } # whoever listened may be gone
die() { say "$*"; exit 1; }
need_root() { [[ $EUID == 0 ]] || die "needs root (namespaces, loop devices, mounts)"; }
check_host() { [[ -n ${ADDR[${1:-}]:-} ]] || die "no such machine: '${1:-}' (atlas, vega)"; }
suite() { [[ $1 == atlas ]] && echo "$LAB_SUITE" || echo "$LAB_TARGET_SUITE"; }
tarball() { echo "$LAB_CACHE/rootfs-$1-$MADE_AS.tar.zst"; } # SUITE
other() { [[ $1 == atlas ]] && echo vega || echo atlas; }
netns() { echo "$LAB_NAME-$1"; }

# A process is a pid and its start time: pids are reused. A zombie nobody has waited for yet is none.
start_time() {
  local stat; stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  set -- ${stat##*) }; [[ $1 == [ZX] ]] || echo "${20}"
}
save_pid() { echo "$2 $(start_time "$2")" >"$DIR/$1.pid"; }
live_pid() { is_live "$DIR/$1.pid"; }
is_live() { # prints the pid recorded in this file if that very process still runs
  local pid started
  [[ -s $1 ]] && read -r pid started <"$1" && [[ -n $started && $(start_time "$pid") == "$started" ]] && echo "$pid"
}

until_true() { # SECONDS CMD...: polls until CMD succeeds
  local end=$((SECONDS + $1)); shift
  until "$@"; do ((SECONDS <= end)) || return 1; sleep 0.02; done
}

# One verb at a time changes a lab. Whatever a verb left running in the background holds its lock too, so `down` waits
# for the rest of a `reset` that was killed, instead of racing it; machines and the wire must not inherit it (9>&-).
lock() {
  exec 9>"$DIR/lock"
  flock -w 120 9 || die "another verb has been busy with $LAB_NAME for two minutes"
  [[ -d $DIR ]] || die "$LAB_NAME was taken down meanwhile"
}
unlock() { exec 9>&-; }

both() { # runs a function for both machines at once; fails if one fails
  local h pids=() p rc=0
  for h in "${HOSTS[@]}"; do "$@" "$h" & pids+=($!); done
  for p in "${pids[@]}"; do wait "$p" || rc=1; done
  return $rc
}

cgroup_root() { # where cgroup2 is mounted; mounts one of our own if nowhere
  local m; m=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
  if [[ -z $m ]]; then m=/run/pc-switcher-lab-cgroup2; mkdir -p "$m"; mount -t cgroup2 none "$m"; fi
  echo "$m"
}
cgroup() { echo "$(cgroup_root)/$LAB_NAME/$1"; }

# ---------------------------------------------------------------- the cached root file system

apt_mirror() { # the mirror this system itself uses
  cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | awk '
    !uri && /^URIs:/ {uri = $2}
    !uri && /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {uri = $i; break}}
    END {print uri}' || true
}

cmd_build() {
  local suite
  need_root
  command -v debootstrap >/dev/null || die "debootstrap is missing (apt-get install debootstrap)"
  mkdir -p "$LAB_CACHE"
  exec 8>"$LAB_CACHE/build.lock"; flock 8 # two labs starting together build once
  for suite in "$LAB_SUITE" "$LAB_TARGET_SUITE"; do
    [[ -s $(tarball "$suite") ]] || build_suite "$suite"
  done
  exec 8>&-
}

build_suite() {
  local suite=$1 tarball root log components=main mirror
  tarball=$(tarball "$suite") root=$LAB_CACHE/build-$suite-$MADE_AS log=$LAB_CACHE/debootstrap-$suite-$MADE_AS.log
  mirror=$(apt_mirror); [[ -n $mirror ]] || die "no package mirror found in /etc/apt"
  if grep -q '^ID=ubuntu' /etc/os-release; then components=main,universe; fi
  rm -rf --one-file-system "$root"
  say "building a $suite root file system, once (log: $log)"
  debootstrap --variant=minbase --components="$components" --include="$PACKAGES${LAB_EXTRA:+,$LAB_EXTRA}" \
    "$suite" "$root" "$mirror" >"$log" 2>&1 || { tail -n 5 "$log" >&2; rm -rf --one-file-system "$root"; die "debootstrap failed"; }
  customise "$root"
  tar -C "$root" --numeric-owner --xattrs --acls --one-file-system -cf - . | zstd -q -T0 -3 -f -o "$tarball.new"
  mv "$tarball.new" "$tarball"
  rm -rf --one-file-system "$root"
}

customise() { # turns a bare root file system into a machine; its text is part of the cache's name
  local r=$1 unit
  rm -rf "$r"/var/cache/apt/archives/*.deb "$r"/var/cache/apt/*.bin "$r"/var/lib/apt/lists/* "$r"/var/log/bootstrap.log
  rm -f "$r"/etc/ssh/ssh_host_* "$r"/etc/machine-id "$r"/var/lib/dbus/machine-id "$r"/etc/resolv.conf
  : >"$r/etc/machine-id"
  chroot "$r" useradd -m -s /bin/bash -U -u 1000 dev
  printf 'dev ALL=(ALL) NOPASSWD:ALL\n' >"$r/etc/sudoers.d/dev"; chmod 440 "$r/etc/sudoers.d/dev"
  printf 'LANG=C.UTF-8\n' >"$r/etc/default/locale"
  printf '127.0.0.1 localhost\n::1 localhost\n' >"$r/etc/hosts"
  printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' >"$r/etc/resolv.conf"
  # Units that make no sense on a shared kernel without a console, or only slow the boot down.
  for unit in getty.target console-getty.service getty@tty1.service systemd-remount-fs.service systemd-modules-load.service \
              systemd-sysctl.service systemd-timesyncd.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
              e2scrub_all.timer e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
              sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount ssh.socket; do
    ln -sfn /dev/null "$r/etc/systemd/system/$unit"
  done
  mkdir -p "$r/etc/systemd/system/multi-user.target.wants" "$r/etc/systemd/journald.conf.d" "$r/host"
  ln -sfn /lib/systemd/system/ssh.service "$r/etc/systemd/system/multi-user.target.wants/ssh.service"
  printf '[Journal]\nReadKMsg=no\n' >"$r/etc/systemd/journald.conf.d/lab.conf"
}

# ---------------------------------------------------------------- disks

attach() { # a loop device for HOST's image, and its top level mounted outside
  local h=$1 img=$DIR/$1.img
  if [[ ! -s $DIR/$h.loop ]] || ! losetup "$(<"$DIR/$h.loop")" >/dev/null 2>&1; then
    losetup -f --show --direct-io=on "$img" >"$DIR/$h.loop" 2>/dev/null || losetup -f --show "$img" >"$DIR/$h.loop"
  fi
  mkdir -p "$DIR/disk/$h"
  [[ -z $(blkid -p -o value -s TYPE "$img") ]] || mountpoint -q "$DIR/disk/$h" \
    || mount -t btrfs -o noatime,subvolid=5 "$(<"$DIR/$h.loop")" "$DIR/disk/$h"
}

detach() {
  local h=$1 loop
  if mountpoint -q "$DIR/disk/$h"; then umount "$DIR/disk/$h" || umount -l "$DIR/disk/$h"; fi
  [[ -s $DIR/$h.loop ]] || return 0
  loop=$(<"$DIR/$h.loop")
  # The image may have been moved over by now; never detach a loop device that became somebody else's.
  if [[ $(losetup -nO BACK-FILE "$loop" 2>/dev/null) == "$DIR/$h.img"* ]]; then losetup -d "$loop"; fi
  rm -f "$DIR/$h.loop"
}

make_disk() { # a fresh disk for HOST, with pristine copies of its subvolumes for `reset`
  local h=$1 d=$DIR/disk/$1 type uuid
  truncate -s "$LAB_SIZE" "$DIR/$h.img"
  mkfs.btrfs -q -L "$h" "$DIR/$h.img" >/dev/null
  attach "$h"
  btrfs subvolume create "$d/@" >/dev/null
  btrfs subvolume create "$d/@home" >/dev/null
  zstd -dcq "$(tarball "$(suite "$h")")" | tar -C "$d/@" --numeric-owner --xattrs --xattrs-include='*' --acls -xpf -
  chmod 755 "$d/@" "$d/@home"
  cp -a "$d/@/home/." "$d/@home/"; find "$d/@/home" -mindepth 1 -delete
  uuid=$(blkid -p -o value -s UUID "$DIR/$h.img")
  { echo "UUID=$uuid / btrfs noatime,subvol=@ 0 0"
    echo "UUID=$uuid /home btrfs noatime,subvol=@home 0 0"
    if [[ $LAB_SNAPSHOTS == subvolume ]]; then
      echo "UUID=$uuid /.snapshots btrfs noatime,subvol=.snapshots 0 0"; mkdir "$d/@/.snapshots"; fi; } >"$d/@/etc/fstab"
  echo "$h" >"$d/@/etc/hostname"
  printf '127.0.1.1 %s\n%s %s\n' "$h" "${ADDR[$(other "$h")]}" "$(other "$h")" >>"$d/@/etc/hosts"
  tr -d - </proc/sys/kernel/random/uuid >"$d/@/etc/machine-id"
  for type in ed25519 ecdsa rsa; do ssh-keygen -q -t $type -N '' -C "root@$h" -f "$d/@/etc/ssh/ssh_host_${type}_key"; done
  install -d -m 700 "$d/@home/dev/.ssh"
  ssh-keygen -q -t ed25519 -N '' -C "dev@$h" -f "$d/@home/dev/.ssh/id_ed25519"
}

introduce() { # HOST knows the other machine: its user's key, its host key; and the lab's own key
  local h=$1 o ssh
  o=$(other "$h"); ssh=$DIR/disk/$h/@home/dev/.ssh
  cat "$DIR/disk/$o/@home/dev/.ssh/id_ed25519.pub" "$DIR/lab_key.pub" >"$ssh/authorized_keys"
  echo "$o,${ADDR[$o]} $(cut -d' ' -f1,2 "$DIR/disk/$o/@/etc/ssh/ssh_host_ed25519_key.pub")" | tee -a "$DIR/known_hosts" >"$ssh/known_hosts"
  chmod 600 "$ssh/authorized_keys"; chown -R 1000:1000 "$ssh"
}

keep_pristine() {
  local d=$DIR/disk/$1 s; mkdir "$d/lab-pristine"
  for s in @ @home; do btrfs subvolume snapshot -r "$d/$s" "$d/lab-pristine/$s" >/dev/null; done
}

from_pristine() { # HOST must be down
  local d=$DIR/disk/$1 s
  # In reverse order a nested subvolume comes before the one it is in.
  btrfs subvolume list "$d" | sed 's/^.* path //' | grep -v '^lab-pristine/' | LC_ALL=C sort -r | while IFS= read -r s; do
    btrfs subvolume delete "$d/$s" >/dev/null; done
  find "$d" -mindepth 1 -maxdepth 1 ! -name lab-pristine -exec rm -rf --one-file-system {} +
  for s in @ @home; do btrfs subvolume snapshot "$d/lab-pristine/$s" "$d/$s" >/dev/null; done
  make_snapshot_dir "$1"
}
make_snapshot_dir() {
  local d=$DIR/disk/$1
  if grep -q ' /.snapshots ' "$d/@/etc/fstab"; then btrfs subvolume create "$d/.snapshots" >/dev/null; fi
  btrfs filesystem sync "$d" >/dev/null # a power cut goes back to here, not further
}

# ---------------------------------------------------------------- booting

cmd_start() {
  local h=$1 cg; check_host "$h"
  if live_pid "$h.super" >/dev/null; then return; fi
  attach "$h"
  cg=$(cgroup "$h"); mkdir -p "$cg"; rm -f "$DIR/$h.pid"
  setsid "$SELF" __super "$h" "$cg" </dev/null >>"$DIR/$h.console" 2>&1 9>&- &
  disown; save_pid "$h.super" $!
  cmd_wait "$h"
}

sshd_answers() { nsenter --net="/run/netns/$(netns "$1")" bash -c 'exec 3<>/dev/tcp/127.0.0.1/22 && read -t 2 -u 3 line && [[ $line == SSH-* ]]' 2>/dev/null; }
booted_or_dead() { ! live_pid "$1.super" >/dev/null || { live_pid "$1" >/dev/null && sshd_answers "$1"; }; }
cmd_wait() {
  local h=$1; check_host "$h"
  until_true 60 booted_or_dead "$h" || die "$h: no sshd after 60 s; see $DIR/$h.console"
  live_pid "$h.super" >/dev/null || { tail -n 5 "$DIR/$h.console" >&2; die "$h died while booting"; }
}

first_child() { child=$(tr -d ' ' <"/proc/$1/task/$1/children" 2>/dev/null) && [[ -n $child ]]; }
cmd___super() { # keeps HOST running: boots it, and again when it asked for a reboot
  local h=$1 cg=$2 net outer child rc; net=/run/netns/$(netns "$1")
  while :; do
    # No command substitution in here: the first child must be the machine's pid 1.
    ( echo $BASHPID >"$cg/cgroup.procs"
      exec nsenter --net="$net" \
        unshare --mount --uts --ipc --pid --cgroup --fork --kill-child=KILL "$SELF" __init "$h" ) & outer=$!
    child=; if until_true 5 first_child "$outer"; then save_pid "$h" "$child"; fi
    rc=0; wait "$outer" || rc=$?
    echo "[lab] $h: pid 1 ended ($rc)"
    [[ $rc == 129 ]] || break # reboot(2) in a pid namespace ends its pid 1 by SIGHUP for a restart, SIGINT for a halt
  done
}

cmd___init() { # runs as pid 1 of the new namespaces, still on the outer root; ends as systemd
  local h=$1 r=$DIR/root.$1 loop n s; loop=$(<"$DIR/$h.loop"); mkdir -p "$r"
  mount --make-rprivate /
  hostname "$h"
  mount -t btrfs -o noatime,subvol=@ "$loop" "$r"
  mount -t btrfs -o noatime,subvol=@home "$loop" "$r/home"
  if grep -q ' /.snapshots ' "$r/etc/fstab"; then mount -t btrfs -o noatime,subvol=.snapshots "$loop" "$r/.snapshots"; fi
  mount -t proc -o nosuid,nodev,noexec proc "$r/proc"
  mount -t sysfs -o nosuid,nodev,noexec,ro sysfs "$r/sys"
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$r/sys/fs/cgroup"
  # As initramfs-tools mounts it on a real Debian or Ubuntu: nothing in /run can be executed.
  mount -t tmpfs -o mode=755,nosuid,nodev,noexec,size=10% tmpfs "$r/run"
  populate_dev "$h" "$r" "$loop"
  # The kernel is shared: nothing in here may turn its knobs (those of the network are per namespace).
  mount --bind "$r/proc/sys" "$r/proc/sys"; mount --bind "$r/proc/sys/net" "$r/proc/sys/net"
  cat /proc/sys/kernel/random/uuid >"$r/run/.boot_id"; mount --bind "$r/run/.boot_id" "$r/proc/sys/kernel/random/boot_id"
  mount -o remount,bind,ro "$r/proc/sys"
  if [[ -e $r/proc/sysrq-trigger ]]; then mount --bind "$r/proc/sysrq-trigger" "$r/proc/sysrq-trigger"; mount -o remount,bind,ro "$r/proc/sysrq-trigger"; fi
  cd "$r"; pivot_root . .; umount -l .; cd /
  local drop=-sys_time,-sys_module,-sys_rawio,-mac_admin,-mac_override,-audit_control,-audit_read,-syslog,-wake_alarm,-block_suspend
  exec env -i PATH=$SAFE_PATH container=pcs-lab container_uuid="$(cat /etc/machine-id)" LANG=C.UTF-8 TERM=dumb \
    setpriv --bounding-set="$drop" --inh-caps="$drop" /lib/systemd/systemd --show-status=no
}

populate_dev() {
  local h=$1 r=$2 loop=$3 n
  mount -t tmpfs -o mode=755,nosuid,strictatime tmpfs "$r/dev"
  mkdir -p "$r"/dev/{pts,shm,mqueue,net,disk/by-uuid,disk/by-label}
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec devpts "$r/dev/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$r/dev/shm"
  mount -t mqueue -o nosuid,nodev,noexec mqueue "$r/dev/mqueue"
  for n in 'null c 1 3' 'zero c 1 5' 'full c 1 7' 'random c 1 8' 'urandom c 1 9' 'tty c 5 0'; do mknod -m 666 "$r/dev/${n%% *}" ${n#* }; done
  mknod -m 666 "$r/dev/fuse" c 10 229; mknod -m 666 "$r/dev/net/tun" c 10 200
  mknod -m 660 "$r/dev/btrfs-control" c 10 234
  mknod -m 660 "$r$loop" b $((16#$(stat -c %t "$loop"))) $((16#$(stat -c %T "$loop"))) # only its own disk
  ln -s "../../${loop##*/}" "$r/dev/disk/by-uuid/$(blkid -o value -s UUID "$loop")"
  ln -s "../../${loop##*/}" "$r/dev/disk/by-label/$h"
  ln -s pts/ptmx "$r/dev/ptmx"; ln -s /proc/self/fd "$r/dev/fd"
  for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%%:*}" "$r/dev/${n#*:}"; done
  : >"$r/dev/console"; mount --bind /dev/null "$r/dev/console"
}

# ---------------------------------------------------------------- ending

is_down() { ! live_pid "$1" >/dev/null; }
is_all_down() { is_down "$1" && is_down "$1.super"; }
cmd_stop() {
  local h=$1 pid; check_host "$h"
  if pid=$(live_pid "$h"); then
    kill -s RTMIN+4 "$pid" # systemd: power off
    until_true 15 is_down "$h" || say "$h did not power off in 15 s; killing it"
  fi
  cmd_kill "$h"
}

cmd_kill() { # SIGKILL of pid 1 takes its whole pid namespace along
  local h=$1 pid cg; check_host "$h"
  if pid=$(live_pid "$h"); then kill -KILL "$pid" 2>/dev/null || true; fi
  until_true 10 is_all_down "$h" || { if pid=$(live_pid "$h.super"); then kill -KILL "$pid"; fi; }
  rm -f "$DIR/$h.pid" "$DIR/$h.super.pid"
  cg=$(cgroup "$h")
  if [[ -d $cg ]]; then
    echo 1 >"$cg/cgroup.kill" 2>/dev/null || true # strays that `lab.sh exec` brought in
    until_true 5 remove_cgroup "$cg" || say "cgroup $cg stays"
  fi
}
remove_cgroup() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true; [[ ! -d $1 ]]; }

cmd_powercut() { # the outer mount keeps the file system open, so dying processes do not commit it by unmounting
  local h=$1 before; check_host "$h"
  cmd_kill "$h"
  before=$(commit_number "$h")
  cp --sparse=always "$DIR/$h.img" "$DIR/$h.img.cut"
  [[ $(commit_number "$h") == "$before" ]] || say "a periodic commit ran meanwhile; the copy may be torn, repeat"
  detach "$h"; mv "$DIR/$h.img.cut" "$DIR/$h.img"; attach "$h"
}
commit_number() { dd if="$DIR/$1.img" bs=4096 skip=16 count=1 iflag=direct 2>/dev/null | od -An -tu8 -j72 -N8; } # generation in the superblock

cmd_restart() { cmd_stop "$1"; cmd_start "$1"; }

other_than() { local pid; pid=$(live_pid "$1") && [[ $pid != "$2" ]]; }
cmd_reboot() { # asked for from within, as a person would; the dying machine's sshd does not count as the new one's
  local h=$1 pid; check_host "$h"; pid=$(live_pid "$h") || die "$h is not running"
  kill -s RTMIN+5 "$pid" # systemd: reboot
  until_true 60 other_than "$h" "$pid" || die "$h did not reboot in 60 s; see $DIR/$h.console"
  cmd_wait "$h"
}

# ---------------------------------------------------------------- running things inside

enter() { # HOST ARGV...: in all namespaces of HOST, in a cgroup below HOST's
  local h=$1 pid cg; shift
  pid=$(live_pid "$h") || die "$h is not running"
  cg=$(cgroup "$h")/lab.exec; mkdir -p "$cg"; echo $BASHPID >"$cg/cgroup.procs"
  exec nsenter -t "$pid" -m -u -i -n -p -C -r -w -- "$@"
}
cmd_exec() {
  local h=$1; shift; check_host "$h"
  enter "$h" /usr/bin/env -i PATH=$SAFE_PATH HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 TERM="${TERM:-dumb}" \
    /bin/bash -c 'cd; exec "$@"' exec "$@"
}
cmd_as() {
  local user=$1 h=$2; shift 2; check_host "$h"
  enter "$h" /usr/bin/env -i PATH=$SAFE_PATH LANG=C.UTF-8 SHELL=/bin/bash TERM="${TERM:-dumb}" /usr/sbin/runuser -u "$user" -- \
    /bin/bash -c 'export HOME=$(getent passwd "$(id -u)" | cut -d: -f6) USER=$(id -un) LOGNAME=$(id -un); cd; exec "$@"' as "$@"
}
cmd_put() {
  local h=$1 src=$2 dst=$3; check_host "$h"
  cmd_exec "$h" /bin/bash -c 'cat >"$1.tmp.$$" && chmod "$2" "$1.tmp.$$" && mv "$1.tmp.$$" "$1"' put "$dst" "$(stat -c %a "$src")" <"$src"
}
cmd_get() { local h=$1 src=$2 dst=$3; check_host "$h"; cmd_exec "$h" cat "$src" >"$dst"; }
cmd_disk() { check_host "$1"; echo "$DIR/disk/$1"; }
cmd_netexec() { local h=$1; shift; check_host "$h"; exec nsenter --net="/run/netns/$(netns "$h")" "$@"; }
cmd_cgroup_path() { check_host "$1"; cgroup "$1"; }
cmd_cpu() { check_host "$1"; awk '$1 == "usage_usec" {print $2}' "$(cgroup "$1")/cpu.stat"; }
cmd_ssh_config() {
  local h; for h in "${HOSTS[@]}"; do cat <<CONFIG
Host $h
  HostName ${ADDR[$h]}
  User dev
  IdentityFile $DIR/lab_key
  IdentitiesOnly yes
  UserKnownHostsFile $DIR/known_hosts
  ProxyUseFdpass yes
  ProxyCommand nsenter --net=/run/netns/$(netns "$h") nc -F ${ADDR[$h]} 22
CONFIG
  done
}

# ---------------------------------------------------------------- the wire

w() { ip netns exec "$WIRE" "$@"; }
no_ipv6() { # NAMESPACE INTERFACE: addresses it gives itself would only be noise
  nsenter --net="/run/netns/$1" bash -c "! test -e /proc/sys/net/ipv6 || echo 1 >/proc/sys/net/ipv6/conf/$2/disable_ipv6"
}
port() { echo "p-$1"; }

net_up() { # two machines, a cable each, a bridge between
  local h n
  ip netns add "$WIRE"; w ip link set lo up; no_ipv6 "$WIRE" all
  w ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0; w ip link set br0 up
  for h in "${HOSTS[@]}"; do
    n=$(netns "$h")
    ip netns add "$n"; w ip link add "$(port "$h")" type veth peer name eth0 netns "$n"
    ip -n "$n" link set lo up; ip -n "$n" addr add "${ADDR[$h]}/24" dev eth0
    no_ipv6 "$n" eth0
    ip -n "$n" link set eth0 up
    # What distributions use; the sysctl is not writable in here.
    ip -n "$n" route replace 10.77.0.0/24 dev eth0 src "${ADDR[$h]}" congctl cubic 2>/dev/null || true
    w ip link set "$(port "$h")" up master br0
  done
  echo off >"$DIR/wire"
}
net_down() {
  local n; linkd_stop
  for n in "$(netns atlas)" "$(netns vega)" "$WIRE"; do if [[ -e /run/netns/$n ]]; then ip netns del "$n"; fi; done
}

linkd_build() {
  [[ -x $LAB_CACHE/linkd && $LAB_CACHE/linkd -nt $HERE/linkd.c ]] && return
  mkdir -p "$LAB_CACHE"
  cc -O2 -Wall -pthread -o "$LAB_CACHE/linkd.$$" "$HERE/linkd.c" && mv "$LAB_CACHE/linkd.$$" "$LAB_CACHE/linkd"
}
linkd_stop() {
  local pid; if pid=$(live_pid linkd); then kill "$pid"; until_true 2 is_down linkd || kill -KILL "$pid"; fi
  rm -f "$DIR/linkd.pid"
}
set_gso() {
  local h n; for h in "${HOSTS[@]}"; do
    n=$(netns "$h"); ip -n "$n" link set eth0 gso_max_size "$1" gso_ipv4_max_size "$1" 2>/dev/null || ip -n "$n" link set eth0 gso_max_size "$1"
  done
}
wire_apply() { # puts the wire into the state recorded in $DIR/wire
  local state h kbit micros loss buffer burst
  state=$(<"$DIR/wire"); linkd_stop
  if [[ $state == off ]]; then
    set_gso 65536; for h in "${HOSTS[@]}"; do w ip link set "$(port "$h")" master br0 up; done
    return
  fi
  linkd_build; read -r kbit micros loss buffer <<<"$state"
  for h in "${HOSTS[@]}"; do w ip link set "$(port "$h")" nomaster; w ip link set "$(port "$h")" up promisc on; done
  burst=$((kbit * 1000 / 8 / 5000)) # at most 0.2 ms of line time per burst
  if ((kbit == 0 || burst > 65536)); then burst=65536; elif ((burst < 3028)); then burst=3028; fi
  set_gso "$burst"
  setsid nsenter --net="/run/netns/$WIRE" "$LAB_CACHE/linkd" "$(port atlas)" "$(port vega)" "$kbit" "$micros" "$loss" "$buffer" \
    </dev/null >>"$DIR/linkd.log" 2>&1 9>&- &
  disown; save_pid linkd $!
}
cmd_netem() {
  local rate=${1:-} rtt=${2:-0ms} loss=${3:-0} buffer=${4:-0} kbit micros
  if [[ $rate == off ]]; then echo off >"$DIR/wire"; wire_apply; return; fi
  case $rate in
    *gbit) kbit=$(awk "BEGIN {print int(${rate%gbit} * 1e6)}") ;; *mbit) kbit=$(awk "BEGIN {print int(${rate%mbit} * 1e3)}") ;;
    *kbit) kbit=${rate%kbit} ;; none) kbit=0 ;; *) die "a rate like 200mbit" ;;
  esac
  case $rtt in
    *us) micros=${rtt%us} ;; *ms) micros=$(awk "BEGIN {print int(${rtt%ms} * 1000)}") ;;
    *) die "a round trip like 3ms (half of it is added each way)" ;;
  esac
  echo "$kbit $((micros / 2)) $(awk "BEGIN {print int(${loss%\%} * 10000)}") $buffer" >"$DIR/wire"; wire_apply
}
cmd_cut() {
  local how=${1:-down} h victims=("${HOSTS[@]}")
  case $how in
    down) if [[ -n ${2:-} ]]; then check_host "$2"; victims=("$2"); fi
          for h in "${victims[@]}"; do w ip link set "$(port "$h")" down; done ;;
    drop) linkd_stop; for h in "${HOSTS[@]}"; do w ip link set "$(port "$h")" nomaster; done ;;
    *) die "cut [down|drop] [HOST]" ;;
  esac
}
cmd_heal() {
  local h
  for h in "${HOSTS[@]}"; do w ip link set "$(port "$h")" up; done
  wire_apply
  # A neighbour that did not answer while the wire was cut would be "no route to host" for seconds more.
  for h in "${HOSTS[@]}"; do ip -n "$(netns "$h")" neigh flush dev eth0 2>/dev/null || true; done
}
cmd_wire_bytes() { ip netns exec "$(netns atlas)" awk '$1 == "eth0:" {print $10, $2}' /proc/net/dev; }

# ---------------------------------------------------------------- the whole lab

cmd_up() {
  need_root
  [[ $LAB_NAME =~ ^[A-Za-z0-9_-]{1,40}$ ]] || die "LAB_NAME: letters, digits, - and _"
  [[ ! -e $DIR && ! -e /run/netns/$WIRE ]] || die "a lab named $LAB_NAME is there already (lab.sh down first)"
  trap 'cmd_down' EXIT # until everything stands
  mkdir -p "$LAB_BASE"; mkdir -m 700 "$DIR"; lock
  if [[ -n $LAB_OWNER ]]; then save_pid owner "$LAB_OWNER"; fi
  [[ -s $(tarball "$LAB_SUITE") && -s $(tarball "$LAB_TARGET_SUITE") ]] || cmd_build
  ssh-keygen -q -t ed25519 -N '' -C lab -f "$DIR/lab_key"
  net_up
  both make_disk
  both introduce
  both keep_pristine
  both make_snapshot_dir
  both cmd_start
  trap - EXIT; unlock
  say "up: ${HOSTS[*]} ($DIR)"
}

cmd_reset() {
  need_root
  both cmd_kill
  both from_pristine
  echo off >"$DIR/wire"; cmd_heal
  both cmd_start
}

cmd_down() { # never stops half-way: whatever is there goes
  local h
  [[ -d $DIR || -e /run/netns/$WIRE ]] || return 0
  need_root
  if [[ -d $DIR ]]; then lock; fi
  for h in "${HOSTS[@]}"; do cmd_kill "$h" || say "$h does not die"; done
  net_down || say "network namespaces stay"
  for h in "${HOSTS[@]}"; do detach "$h" || say "disk of $h stays"; done
  rmdir "$(cgroup_root)/$LAB_NAME" 2>/dev/null || true
  rm -rf --one-file-system "$DIR"
  rmdir "$LAB_BASE" 2>/dev/null || true
  unlock
}

cmd_hold() {
  need_root
  trap '' INT TERM HUP PIPE # only the end of stdin ends it: whatever kills the owner closes it
  cmd_up
  trap cmd_down EXIT
  save_pid holder $$
  echo ready || true
  cat >/dev/null || true
}

cmd_sweep() {
  need_root
  local dir name
  for dir in "$LAB_BASE"/*/; do
    [[ -s $dir/owner.pid ]] || continue
    if is_live "$dir/owner.pid" >/dev/null; then continue; fi
    name=${dir%/}; name=${name##*/}
    if is_live "$dir/holder.pid" >/dev/null; then until_true 60 is_gone "$dir" && continue; fi
    say "taking down $name, whose owner is gone"
    LAB_NAME=$name "$SELF" down
  done
}
is_gone() { [[ ! -e $1 ]]; }

cmd_status() {
  local h pid
  for h in "${HOSTS[@]}"; do
    if pid=$(live_pid "$h"); then echo "$h running pid=$pid disk=$(<"$DIR/$h.loop") addr=${ADDR[$h]}"; else echo "$h stopped"; fi
  done
  if [[ -f $DIR/wire ]]; then echo "wire $(<"$DIR/wire")"; fi
}
cmd_list() { local d; for d in "$LAB_BASE"/*/; do [[ ! -d $d ]] || basename "$d"; done; }
cmd_help() { sed -n '2,/^set -e/p' "$SELF" | sed '$d; s/^# \{0,1\}//'; }

verb=${1:-help}; shift || true
[[ $verb =~ ^[a-z_-]+$ ]] && declare -F "cmd_${verb//-/_}" >/dev/null || die "no such verb: $verb (lab.sh help)"
case $verb in
  help | build | up | down | hold | sweep | status | list) ;;
  *) [[ -d $DIR ]] || die "no lab named $LAB_NAME is up" ;;
esac
case $verb in reset | start | stop | restart | reboot | kill | powercut | netem | cut | heal) lock ;; esac
"cmd_${verb//-/_}" "$@"; exit # on one line: bash reads on in a file that may have been edited meanwhile
