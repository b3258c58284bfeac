#!/bin/bash
# run.sh [--merge] [TARGET...]: lets a fuzzer that is guided by coverage loose on each target for TIME seconds (60).
# It needs a C++ compiler and no nightly toolchain: what cargo-fuzz does with one, but for the address sanitizer, which has
# little to find in a program whose own code has no unsafe blocks outside src/sys. New inputs are kept outside the repository;
# with --merge those that reach something new join the corpus. A finding stays in fuzz/artifacts/TARGET.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
merge=
if [[ ${1:-} == --merge ]]; then merge=1; shift; fi
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || for source in fuzz_targets/*.rs; do source=${source##*/}; targets+=("${source%.rs}"); done

coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
triple=$("${CARGO:-cargo}" -vV | sed -n 's/^host: //p')
build=()
for target in "${targets[@]}"; do build+=(--bin "$target"); done
# The TLS library that was built with the program, if there is one, instead of building it once more; nothing is said through it here.
shopt -s nullglob
for tls in ../target/*/build/openssl-sys-*/out/openssl-build/install; do export OPENSSL_NO_VENDOR=1 OPENSSL_STATIC=1 OPENSSL_DIR=$PWD/$tls; done
RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 $coverage" "${CARGO:-cargo}" build --release --target "$triple" --target-dir target "${build[@]}"

cd .. # samples are named as from here
failed=
for target in "${targets[@]}"; do
  program=fuzz/target/$triple/release/$target found=fuzz/target/found/$target corpus=fuzz/corpus/$target artifacts=fuzz/artifacts/$target
  mkdir -p "$found" "$artifacts" "$corpus"
  samples=()
  case $target in
    config) samples=(tests/samples/config/valid tests/samples/config/invalid) ;;
    managers) samples=(tests/samples/packages) ;;
  esac
  echo "== $target"
  # A request for more memory than this at once is a finding, and so is what takes ten seconds.
  "$program" -max_total_time="${TIME:-60}" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 -max_len=16384 -print_final_stats=1 \
    -artifact_prefix="$artifacts/" "$found" "$corpus" "${samples[@]}" >"$found.log" 2>&1 || true
  grep -E 'INITED|DONE|ERROR|panicked|SUMMARY|number_of_executed|Test unit' "$found.log" || tail -n 5 "$found.log"
  if compgen -G "$artifacts/*" >/dev/null; then echo "$target: see $artifacts" >&2; failed=1; fi
  if [[ -n $merge ]]; then "$program" -merge=1 -max_len=4096 "$corpus" "$found" "${samples[@]}" >"$found.log" 2>&1; ls "$corpus" | wc -l; fi
done
[[ -z $failed ]]
