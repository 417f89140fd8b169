#!/usr/bin/env bash
# Everything that only a GPU can show: driver and launcher, the runtime beside the CPU's, every
# kernel. The last line is the sum of theirs: "N passed, N failed".
# usage: npm run build && npm run build:native && test/gpu/run.sh [MODEL]
set -uo pipefail
cd "$(dirname "$0")/../.."
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A program that ends without its last line, or says that nothing failed and ends badly, has failed.
check() {
  local status counts good bad
  echo "== $*"
  "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  counts=$(grep -Eo '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
  if [[ -z $counts ]]; then
    failed=$((failed + 1))
    return
  fi
  read -r good _ bad _ <<<"$counts"
  passed=$((passed + good))
  failed=$((failed + bad + (status != 0 && bad == 0 ? 1 : 0)))
}

check node dist/test/gpu/driver-check.js
check node dist/test/gpu/runtime-check.js "${1:-reader-mini}"
check node dist/test/gpu/runtime-check.js "${1:-reader-mini}" int8
check node dist/test/gpu/runtime-check.js random-llama
check node dist/test/gpu/runtime-check.js random-qwen
check node dist/test/gpu/runtime-check.js random-qwen int8
check node dist/test/gpu/runtime-check.js random-qwen bf16
check python3 test/gpu/check.py
echo "$passed passed, $failed failed"
((failed == 0))
