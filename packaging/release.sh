#!/bin/bash
# release.sh: a tarball of the static program and all that belongs to it, with its checksum, in target/release-files; prints
# where it is. The same sources give the same bytes: `release.sh --twice` builds everything again from nothing and compares.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tests/lab/need.sh build >&2
binary=$(packaging/static.sh)
if [[ ${1:-} == --twice ]]; then
  first=$(packaging/release.sh)
  cp "$first" target/first.tar.gz
  rm -rf "${binary%/static/*}"
  second=$(packaging/release.sh)
  cmp target/first.tar.gz "$second"
  rm target/first.tar.gz
  echo "Built twice, the same bytes: $(cut -d' ' -f1 "$second.sha256")"
  exit
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=pc-switcher-$version-$(uname -m)-linux
out=target/release-files
rm -rf "$out"
mkdir -p "$out"
packaging/install.sh "$binary" "$out/$name"
cp packaging/INSTALL "$out/$name/"
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
tar -C "$out" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=go-w --format=ustar -cf - "$name" \
  | gzip -9n >"$out/$name.tar.gz"
rm -rf "${out:?}/$name"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
echo "$out/$name.tar.gz"
