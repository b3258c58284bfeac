#!/bin/bash
# need.sh [--check] build|lint|lab|test|fuzz|static|static-debian|package|ci|managers...: makes sure that the programs a task needs are there.
# Installs only what is missing, says what and why; with --check it only says so and fails.
set -euo pipefail

check=
if [[ ${1:-} == --check ]]; then check=1; shift; fi

# program (or file, of a package that has none), Debian and Ubuntu package, what for
needs() {
  case $1 in
    build) cat <<'LIST'
cc        gcc            compiling the SSH and TLS libraries
/usr/include/stdio.h libc6-dev compiling the SSH and TLS libraries
make      make           compiling the TLS library
pod2man   perl           configuring the TLS library, which needs more than perl-base
pkg-config pkg-config    finding system libraries
LIST
      ;;
    lint) cat <<'LIST'
cargo-fmt    rustfmt-web     formatting
cargo-clippy rust-web-clippy lints
LIST
      ;;
    lab) cat <<'LIST'
debootstrap debootstrap  the lab machines' root file system
mkfs.btrfs  btrfs-progs  the lab machines' disks
ip          iproute2     the network between them
zstd        zstd         the cached root file system
cc          gcc          the lab's slow wire
ssh-keygen  openssh-client  keys of the lab machines
rsync       rsync        comparing both homes (oracle)
lsattr      e2fsprogs    comparing flags (oracle)
nsenter     util-linux   entering the lab machines
setpriv     util-linux   booting the lab machines
LIST
      ;;
    test) cat <<'LIST'
setfacl     acl          files with everything a file can have
setfattr    attr         files with everything a file can have
setcap      libcap2-bin  files with everything a file can have
gpg         gnupg        keys of package repositories made for a test
dpkg-deb    dpkg         packages made for a test
LIST
      ;;
    fuzz) cat <<'LIST'
c++         g++          compiling the fuzzer
LIST
      ;;
    static) cat <<'LIST'
musl-gcc    musl-tools     compiling and linking with a C library that needs no other files
LIST
      ;;
    static-debian) cat <<'LIST'
/usr/bin/rustc rustc-web   a recent compiler whose library's source is packaged
/usr/lib/rustlib/src/rust/library/std/Cargo.toml rust-web-src the source of its library
/usr/lib/llvm-14/lib/libunwind.a libunwind-14-dev unwinding without the GNU C library
LIST
      ;;
    package) cat <<'LIST'
dpkg-deb    dpkg           making the package
lintian     lintian        judging the package
file        file           saying what kind of program it is
LIST
      ;;
    ci) cat <<'LIST'
/usr/sbin/sshd openssh-server connections to a real server, which are skipped elsewhere
man         man-db         the manual, which is only looked at elsewhere by those who have it
mandoc      mandoc         a second opinion on the manual
zsh         zsh            its completions
fish        fish           its completions
LIST
      ;;
    managers) cat <<'LIST'
rpmbuild    rpm             packages for dnf and zypper made for a test
createrepo_c createrepo-c   repositories for dnf and zypper made for a test
dnf         dnf             the manager itself, in a root of its own
/usr/lib/python3/dist-packages/dnf-plugins/versionlock.py dnf-plugins-core locks of dnf
zypper      zypper          the manager itself, in a root of its own
pacman      pacman-package-manager the manager itself, in a root of its own
LIST
      ;;
    *) echo "need.sh: no such task: $1" >&2; exit 2 ;;
  esac
}

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=() reasons=()
while read -r program package why; do
  if [[ $program == /* && -e $program ]] || command -v "$program" >/dev/null; then continue; fi
  [[ " ${missing[*]-} " == *" $package "* ]] || missing+=("$package")
  reasons+=("$package ($why)")
done < <(for task in "$@"; do needs "$task"; done)

oldest=1.95
rust_help="install it with rustup (https://rustup.rs), or update it with \`rustup update\`, then run this again."
is_enough() { [[ $(printf '%s\n' "$oldest" "$1" | sort -V | head -n 1) == "$oldest" ]]; } # VERSION
if [[ " $* " == *" build "* ]]; then
  cargo=$(command -v "${CARGO:-cargo}") || cargo=
  found=$("${RUSTC:-rustc}" --version 2>/dev/null | cut -d' ' -f2) || found=
  if [[ -z $cargo || -z $found ]] || ! is_enough "$found"; then
    # What is not the system's own, packages do not replace.
    if [[ -n $cargo && $cargo != /usr/bin/* ]]; then
      echo "Rust ${found:-of no version} is too old, $oldest or newer is needed: $rust_help" >&2
      exit 1
    fi
    missing+=(cargo-web)
    reasons+=("Rust $oldest or newer")
  fi
fi
# Formatting and lints are the compiler's own, from where the compiler is.
if [[ " ${missing[*]-} " == *" rustfmt-web "* || " ${missing[*]-} " == *" rust-web-clippy "* ]]; then
  cargo=$(command -v "${CARGO:-cargo}") || cargo=
  if [[ -n $cargo && $cargo != /usr/bin/* ]]; then
    echo "rustfmt or clippy is missing: with rustup, \`rustup component add rustfmt clippy\` brings them" >&2
    exit 1
  fi
fi
[[ ${#missing[@]} -gt 0 ]] || exit 0
list=$(printf '%s, ' "${reasons[@]}"); list=${list%, }
if [[ -n $check ]]; then echo "missing: $list"; exit 1; fi

root=(env DEBIAN_FRONTEND=noninteractive)
if [[ $EUID != 0 ]]; then
  command -v sudo >/dev/null || { echo "Missing: $list. Installing them needs root, and there is no sudo." >&2; exit 1; }
  root=(sudo env DEBIAN_FRONTEND=noninteractive) # sudo passes little of the environment on
fi
command -v apt-get >/dev/null || { echo "Missing: $list. Install them: this script only knows apt-get." >&2; exit 1; }
"${root[@]}" apt-get update -q >/dev/null || echo "apt-get update failed; trying with the lists that are there" >&2
# Debian builds its browsers with a recent Rust, which is packaged for stable releases too; Ubuntu has no such package.
if [[ " ${missing[*]} " == *" cargo-web "* ]]; then
  offered=$(apt-cache policy cargo-web 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9][0-9.]*\).*/\1/p')
  if [[ -z $offered ]] || ! is_enough "$offered"; then
    echo "Rust $oldest or newer is needed, and apt offers ${offered:-none} (Debian has one in its security updates): $rust_help" >&2
    exit 1
  fi
fi
echo "Installing ${missing[*]}: $list"
"${root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
