#!/bin/bash
# unwind.sh DIRECTORY: a libunwind.a that can be linked with musl, from Debian's own.
#
# Rust's standard library for musl wants LLVM's libunwind. Debian's is compiled for glibc with fortified calls and so wants one
# function that musl has not; with it added, nothing of glibc is left in it. GCC's libgcc_eh.a will not do: it asks glibc
# where the unwind tables are.
set -euo pipefail

to=$1
archive=$(find /usr/lib/llvm-*/lib -name libunwind.a 2>/dev/null | sort -V | tail -n 1)
[[ -n $archive ]] || { echo "unwind.sh: no libunwind.a below /usr/lib/llvm-*" >&2; exit 1; }
if [[ $to/libunwind.a -nt $archive && $to/libunwind.a -nt ${BASH_SOURCE[0]} ]]; then exit 0; fi

mkdir -p "$to"
cat >"$to/fprintf_chk.c" <<'C'
#include <stdarg.h>
#include <stdio.h>

int __fprintf_chk(FILE *file, int flag, const char *format, ...) {
  va_list arguments;
  (void)flag;
  va_start(arguments, format);
  int written = vfprintf(file, format, arguments);
  va_end(arguments);
  return written;
}
C
musl-gcc -O2 -c -o "$to/fprintf_chk.o" "$to/fprintf_chk.c"
cp "$archive" "$to/libunwind.new.a"
ar rs "$to/libunwind.new.a" "$to/fprintf_chk.o"
mv "$to/libunwind.new.a" "$to/libunwind.a"
