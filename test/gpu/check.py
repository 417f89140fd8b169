#!/usr/bin/env python3
"""Checks the CUDA kernels against float64 on the GPU at hand.

usage: python3 test/gpu/check.py [--trials N] [--small] [--seed N] [attend|score|rows|head …]

Needs PyTorch with CUDA, and dist/native/kernels.fatbin (npm run build:native)."""

import argparse
import random
import sys
import time
import traceback

import torch

import check_attend
import check_head
import check_rows
import check_score
from driver import Driver

SUITES = {'rows': check_rows.check, 'head': check_head.check, 'score': check_score.check,
          'attend': check_attend.check}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--trials', type=int, default=6)
    parser.add_argument('--small', action='store_true', help='for the slow checkers')
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 30))
    parser.add_argument('suites', nargs='*', default=list(SUITES))
    options = parser.parse_args()
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    print(f'{torch.cuda.get_device_name(0)}, seed {options.seed}')
    driver = Driver()
    failed = 0
    for name in options.suites:
        start = time.monotonic()
        try:
            worst = SUITES[name](driver, options.trials, options.small)
            torch.cuda.synchronize()
            found = ', '.join(f'{k} {v:.1e}' for k, v in worst.items())
            seconds = time.monotonic() - start
            print(f'{name}: passed in {seconds:.1f} s; worst errors: {found or "none"}')
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f'{name}: FAILED')
    print(f'{len(options.suites) - failed} passed, {failed} failed')
    sys.exit(1 if failed else 0)


main()
