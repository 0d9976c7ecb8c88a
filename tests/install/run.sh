#!/bin/sh
# Installs the build to a folder of its own, and builds and runs what a user would write against
# it. Guards: that the programs and the unit file are there; that the headers need nothing that is
# not installed, and are clean C11 and C++17; that pkg-config and CMake find both libraries; that
# they need only the C++ runtime and show only tcpmux_*.
# Usage: run.sh BUILD_FOLDER C_COMPILER CXX_COMPILER [SANITIZERS]
set -eu
build=$1 cc=$2 cxx=$3 sanitize=${4:+-fsanitize=$4}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }

# There is no mux at this path: it must say so, name it, and end with 1.
expect_no_mux() {
  status=0
  "$@" "$work/no.sock" 2>"$work/said" || status=$?
  [ $status -eq 1 ] || fail "$1 ended with $status: $(cat "$work/said")"
  grep -q "$work/no.sock.*is tcpmuxd running" "$work/said" || fail "$1 said: $(cat "$work/said")"
  echo "ok: $(basename "$1"): $(cat "$work/said")"
}

cmake --install "$build" --prefix "$work/root" >"$work/log" || { cat "$work/log"; fail install; }
library=$(find "$work/root" -name libtcpmux.so)
folder=$(dirname "$library")
for program in tcpmuxd tcpmux tcpmux-demo; do
  [ -x "$work/root/bin/$program" ] || fail "no $program"
done
status=0
"$work/root/bin/tcpmux" ctl status --registry "$work/no.sock" 2>"$work/said" || status=$?
[ $status -eq 3 ] || fail "tcpmux ctl ended with $status: $(cat "$work/said")"
grep -q '^ExecStart=tcpmuxd ' "$work/root/lib/systemd/system/tcpmuxd.service" || fail "no unit file"
for header in backend.h backend.hpp; do
  [ -f "$work/root/include/tcpmux/$header" ] || fail "no $header"
done
for file in libtcpmux.a libtcpmux.so.0 pkgconfig/tcpmux.pc cmake/tcpmux/tcpmuxConfig.cmake; do
  [ -e "$folder/$file" ] || fail "no $file"
done

others=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -v -e '^tcpmux_' -e '^TCPMUX_0' || true)
[ -z "$others" ] || fail "the library shows more than tcpmux_*: $others"
nm -D --defined-only "$library" | grep -q ' T tcpmux_open' || fail "tcpmux_open is not shown"
if [ -z "$sanitize" ]; then
  others=$(readelf -d "$library" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' |
    grep -v -e '^libstdc++' -e '^libgcc_s' -e '^libc\.' -e '^libm\.' -e '^ld-linux' || true)
  [ -z "$others" ] || fail "the library needs more than the C++ runtime: $others"
fi

export PKG_CONFIG_PATH="$folder/pkgconfig" LD_LIBRARY_PATH="$folder"
strict="-Wall -Wextra -Wpedantic -Wconversion -Werror $sanitize"
"$cc" -std=c11 -D_DEFAULT_SOURCE $strict $(pkg-config --cflags tcpmux) "$here/consumer/consumer.c" \
  -o "$work/c_shared" $(pkg-config --libs tcpmux)
expect_no_mux "$work/c_shared"
"$cc" -std=c11 -D_DEFAULT_SOURCE $strict $(pkg-config --cflags tcpmux) "$here/consumer/consumer.c" \
  -o "$work/c_static" "$folder/libtcpmux.a" \
  $(pkg-config --static --libs tcpmux | sed 's/-ltcpmux//')
(unset LD_LIBRARY_PATH; expect_no_mux "$work/c_static")
"$cxx" -std=c++17 $strict $(pkg-config --cflags tcpmux) "$here/consumer/consumer.cc" \
  -o "$work/cxx_shared" $(pkg-config --libs tcpmux)
expect_no_mux "$work/cxx_shared"

unset LD_LIBRARY_PATH
cmake -S "$here/consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$work/root" \
  -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_C_FLAGS="$sanitize" -DCMAKE_CXX_FLAGS="$sanitize" >"$work/log" 2>&1 &&
  cmake --build "$work/consumer" >>"$work/log" 2>&1 || { cat "$work/log"; fail "find_package"; }
for program in with_shared with_static c_with_static; do
  expect_no_mux "$work/consumer/$program"
done
