#!/bin/bash
# static.sh [--debian] [--probe]: one static program, for any Linux of this architecture; prints where it is.
# --probe builds a small one that tries what programs of this kind can do (packaging/probe.rs).
#
# With rustup its musl target is used. Without rustup, or with --debian, Debian's own packages build the standard library
# for musl: rustc-web and rust-web-src are one recent compiler and its library's source. Installs what is missing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
way=rustup what=(--bin pc-switcher) made=pc-switcher
if ! command -v rustup >/dev/null; then way=debian; fi
for argument in "$@"; do
  case $argument in
    --debian) way=debian ;;
    --probe) what=(--example static-probe) made=examples/static-probe ;;
    *) echo "static.sh: no such argument: $argument" >&2; exit 2 ;;
  esac
done

arch=$(uname -m)
case $arch in
  x86_64 | aarch64) ;;
  *) echo "static.sh: no static program for $arch has been tried" >&2; exit 1 ;;
esac
target=$arch-unknown-linux-musl
variable=${target//-/_} # as the variables for C spell it; those for cargo are in capitals
cargo=${CARGO:-cargo}
build=(build --profile static --target "$target" "${what[@]}" --locked)
flags=()

# Paths of whoever builds do not belong into the program, and would make two builds differ.
home=${CARGO_HOME:-$HOME/.cargo}
remap=("--remap-path-prefix=$home/registry/src=/crates" "--remap-path-prefix=$PWD=/pc-switcher")

# By name: OpenSSL keeps in itself how it was compiled.
export PATH=$PWD/packaging:$PATH "CC_$variable=musl-cc" OPENSSL_SRC_PERL=openssl-perl
# C is never unwound through: its tables would be a third of a megabyte. Of zstd's ways to compress, levels up to 3 use two
# (src/mirror/packing.rs and spool.rs); any other level would quietly be done like 3.
small=(-fno-asynchronous-unwind-tables -fno-unwind-tables)
for slow in GREEDY LAZY LAZY2 BTLAZY2 BTOPT BTULTRA; do small+=("-DZSTD_EXCLUDE_${slow}_BLOCK_COMPRESSOR"); done
export "CFLAGS_$variable=${small[*]}"
# OpenSSL writes a time into itself; the same one each time, or everything would be compiled again after each commit.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}

if [[ $way == rustup ]]; then
  tests/lab/need.sh build static >&2
  if ! rustup target list --installed | grep -qx "$target"; then
    echo "Adding the target $target to the toolchain" >&2
    rustup target add "$target" >&2
  fi
  # Half a megabyte of relocations becomes a few kilobytes; the C library that comes with the target can read them.
  flags+=(-C "link-arg=-Wl,-z,pack-relative-relocs")
else
  tests/lab/need.sh build static static-debian >&2
  unwind=$PWD/target/unwind
  packaging/unwind.sh "$unwind"
  export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
  export "CARGO_TARGET_${variable^^}_LINKER=musl-gcc"
  # The library that comes with rustup's target has what C compilers leave to a library of theirs, such as counting bits on
  # processors of any age; one built here has not.
  flags+=(-L "native=$unwind" -C link-self-contained=no -C target-feature=+crt-static -C relocation-model=static -C link-arg=-lgcc)
  build+=(-Z "build-std=std,panic_unwind")
fi
flags+=("${remap[@]}")
export "CARGO_TARGET_${variable^^}_RUSTFLAGS=${flags[*]}"

"$cargo" "${build[@]}" >&2
echo "target/$target/static/$made"
