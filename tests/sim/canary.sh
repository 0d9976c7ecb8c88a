#!/bin/sh
# Each planted bug (core/base/planted.h) must be found within a minute, or the simulator finds
# nothing that it should be trusted with.
#   canary.sh PROGRAM BUG...
program=$1
shift
for bug in "$@"; do
  said=$("$program" --minutes 1 --no-shrink --plant "$bug" 2>&1)
  code=$?
  found=$(printf '%s\n' "$said" | sed -n 's/^BROKEN: //p')
  if [ "$code" -ne 1 ] || [ -z "$found" ]; then
    printf 'NOT FOUND: %s (exit code %d)\n' "$bug" "$code"
    exit 1
  fi
  printf 'found %s: %s\n' "$bug" "$found"
done
