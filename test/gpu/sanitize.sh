#!/usr/bin/env bash
# Runs the checks under compute-sanitizer: wrong addresses, races, barriers. (Unwritten memory is the
# checks' own business: everything is NaN before.) Each tool must first find a planted fault under
# the very filter that the checks run with.
# usage: test/gpu/sanitize.sh [memcheck|racecheck|synccheck …]
set -euo pipefail
cd "$(dirname "$0")/../.."
# Every tensor an allocation of its own, so that a step past its end is seen.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
tools=("$@")
((${#tools[@]})) || tools=(memcheck synccheck racecheck)
# PyTorch's own kernels are left out: they are many, and slow under a checker.
filter=()
for family in plan attend_ merge_ append_ compact_ channel_scales_ load_ store_ score_ logits_ \
  largest convert_; do
  filter+=(--kernel-name "kernel_substring=$family")
done
planted=$(mktemp -d)
trap 'rm -rf "$planted"' EXIT
nvcc -arch=native -fatbin test/gpu/planted.cu -o "$planted/planted.fatbin"

check() {
  local tool=$1
  shift
  compute-sanitizer --tool "$tool" "${filter[@]}" --error-exitcode 1 python3 "$@"
}

for tool in "${tools[@]}"; do
  if check "$tool" test/gpu/planted.py "$planted/planted.fatbin" "$tool" >"$planted/log" 2>&1 ||
    ! grep -q "attend_planted_$tool" "$planted/log"; then
    cat "$planted/log" >&2
    echo "Expected $tool to find its planted fault but it did not: its results mean nothing" >&2
    exit 1
  fi
  echo "== $tool (found the planted fault)"
  check "$tool" test/gpu/check.py --trials 1 --small
done
