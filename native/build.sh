#!/usr/bin/env bash
# Compiles the CUDA kernels into dist/native/kernels.fatbin.
# usage: native/build.sh [sm_90 …]   only these cards, for quicker tries; default: all, and PTX
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."
target=dist/native/kernels.fatbin

nvcc=${NVCC:-$(command -v nvcc || true)}
if [[ -z $nvcc ]]; then
  echo 'Expected nvcc, the CUDA compiler, on the PATH or in NVCC, but found none.
Install the CUDA toolkit (13.0 is known to do) and run "npm run build:native" again.
Without the kernels readonce runs on the CPU.' >&2
  exit 1
fi

codes=()
if (($# > 0)); then
  for card in "$@"; do codes+=(-gencode "arch=compute_${card#sm_},code=$card"); done
else
  for number in 80 86 89 90; do codes+=(-gencode "arch=compute_$number,code=sm_$number"); done
  # Later cards compile this when the module is loaded.
  codes+=(-gencode 'arch=compute_90,code=compute_90')
fi

# What readonce knows kernels of other sources by (src/runtime/cuda/kernel-sources.ts).
hash=$(
  LC_ALL=C
  cat native/*.cu native/*.cuh | sha256sum
)

mkdir -p "${target%/*}"
rm -f "$target.sources"
"$nvcc" -std=c++17 -O3 --threads 0 -Werror all-warnings -fatbin "${codes[@]}" \
  native/kernels.cu -o "$target.part"
mv "$target.part" "$target"
echo "${hash%% *}" >"$target.sources"
echo "$target: $(($(wc -c <"$target") / 1024)) KiB"
