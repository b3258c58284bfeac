#!/bin/bash
# install.sh BINARY DIRECTORY: puts the program and all that belongs to it below DIRECTORY, a prefix such as /usr/local.
# `make install`, the package and the release tarball are all made of what this puts there.
# install.sh --remove DIRECTORY: takes it away again.
set -euo pipefail

to=$2
existing=$to
while [[ ! -e $existing ]]; do existing=$(dirname "$existing"); done
if [[ ! -w $existing && $EUID != 0 ]]; then
  echo "Writing below $to needs root: using sudo" >&2
  exec "$(dirname "${BASH_SOURCE[0]}")/../tests/lab/as-root.sh" "${BASH_SOURCE[0]}" "$@"
fi
if [[ $1 == --remove ]]; then
  rm -f "$to"/bin/pc-switcher "$to"/share/man/man[157]/pc-switcher[-.]* \
    "$to/share/bash-completion/completions/pc-switcher" "$to/share/zsh/site-functions/_pc-switcher" \
    "$to/share/fish/vendor_completions.d/pc-switcher.fish"
  rm -rf "$to/share/doc/pc-switcher"
  exit
fi
binary=$(readlink -f "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data() { install -D -m 644 "$1" "$to/$2"; }

install -D -m 755 "$binary" "$to/bin/pc-switcher"
for page in man/*.[157]; do
  data "$page" "share/man/man${page##*.}/${page##*/}"
done
# The program itself knows what each shell needs.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for shell in bash zsh fish; do "$binary" completions $shell >"$scratch/$shell"; done
data "$scratch/bash" share/bash-completion/completions/pc-switcher
data "$scratch/zsh" share/zsh/site-functions/_pc-switcher
data "$scratch/fish" share/fish/vendor_completions.d/pc-switcher.fish

doc=share/doc/pc-switcher
for file in README.md ARCHITECTURE.md BENCHMARKS.md CHANGELOG.md RELIABILITY.md SECURITY.md LICENSE-MIT LICENSE-APACHE; do
  if [[ -e $file ]]; then data "$file" "$doc/$file"; fi
done
for file in docs/*; do data "$file" "$doc/$file"; done
data config.example.yaml "$doc/examples/config.yaml"
for file in filters/*; do data "$file" "$doc/examples/${file##*/}"; done
for file in contrib/systemd/user/*; do data "$file" "$doc/examples/systemd/${file##*/}"; done
