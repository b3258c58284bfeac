#!/bin/bash
# deb.sh: a Debian package of the static program; prints where it is. One package for every release of Debian and Ubuntu.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tests/lab/need.sh build package >&2
cargo=${CARGO:-cargo}
binary=$(packaging/static.sh)
target=${binary#target/} target=${target%%/*}

# cargo-deb is a program of its own; it is kept beside the build.
if ! command -v cargo-deb >/dev/null; then
  export PATH=$PWD/target/tools/bin:$PATH
  if ! command -v cargo-deb >/dev/null; then
    echo "Building cargo-deb, once" >&2
    env -u RUSTFLAGS "$cargo" install --quiet --locked --root target/tools --version '^3' cargo-deb >&2
  fi
fi

stage=target/package
rm -rf "$stage"
mkdir -p "$stage"
packaging/install.sh "$binary" "$stage/usr"
# Debian's zsh looks for what packages bring elsewhere, and licences are in `copyright`.
mkdir "$stage/usr/share/zsh/vendor-completions"
mv "$stage/usr/share/zsh/site-functions/_pc-switcher" "$stage/usr/share/zsh/vendor-completions/"
rm "$stage"/usr/share/doc/pc-switcher/LICENSE-*
gzip -9n <CHANGELOG.md >"$stage/usr/share/doc/pc-switcher/changelog.gz"
rm "$stage/usr/share/doc/pc-switcher/CHANGELOG.md"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH=$epoch
maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)
cat >"$stage/changelog" <<CHANGELOG
pc-switcher ($version-1) unstable; urgency=medium

  * See /usr/share/doc/pc-switcher/changelog.gz.

 -- $maintainer  $(LC_ALL=C date -u -d "@$epoch" '+%a, %d %b %Y %H:%M:%S +0000')
CHANGELOG

"$cargo" deb --no-build --no-strip --target "$target" --profile static --output target/package/ >/dev/null
deb=$(find target/package -maxdepth 1 -name '*.deb')
echo "$deb"
