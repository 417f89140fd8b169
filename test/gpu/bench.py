#!/usr/bin/env python3
"""Measures the CUDA kernels on the GPU at hand; native/README.md records what was seen.

usage: python3 test/gpu/bench.py [copy|decode|shared|score|rows …]
"""

import math
import random
import statistics
import sys

import torch

from attention import Launch, merge, query_units
from bench_score import bench_score
from driver import Driver, Long
from paged import DEVICE, MODEL_TYPES, Pool

CONTEXT = 32768
MODELS = {'Qwen2.5-7B': (4, 7), 'Llama-3.1-8B': (8, 4)}  # KV heads, group; head dim 128
HEAD_DIM = 128
# Layers are rotated until their pairs are many times the second-level cache (60 MB on an H200), so
# that what one replay leaves in it is of no use to the next.
COLD_BYTES = 1.6e9


def time_ms(run, repeats=30):
    """Median time of a CUDA graph of `run`."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_rate():
    """Bytes read and written a second by a large device-to-device copy, in GB/s."""
    source = torch.randn(1 << 30, device=DEVICE)
    target = torch.empty_like(source)
    rates = []
    for _ in range(8):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        rates.append(2 * source.nbytes / start.elapsed_time(end) / 1e6)
    return statistics.median(rates)


def ragged(keep_ratio, sequences):
    if keep_ratio == 1:
        return [CONTEXT] * sequences
    spread = [random.uniform(0.2, 1.8) for _ in range(sequences)]
    total = keep_ratio * CONTEXT * sequences
    return [int(total * x / sum(spread)) for x in spread]


class Step:
    """One layer's attention of a decoding step, over several layers' pairs."""

    def __init__(self, driver, fmt, kv_heads, group, reading, block_size=64):
        """`reading`: lengths, units, and rows of the variant."""
        lengths, units, rows = reading
        self.driver, self.kv_heads, self.group = driver, kv_heads, group
        pair_bytes = 2 * HEAD_DIM * (1 if fmt.startswith('i8') else 2)
        self.bytes = sum(lengths) * pair_bytes
        self.layers = max(1, math.ceil(COLD_BYTES / self.bytes))
        self.launches = []
        for _ in range(self.layers):
            pool = Pool(fmt, lengths, HEAD_DIM, block_size)
            for x in (pool.keys, pool.values):
                x.random_(-127, 128) if x.dtype == torch.int8 else x.normal_()
            for x in (pool.key_largest, pool.value_largest):
                if x is not None:
                    x.fill_(2)
            self.launches.append(Launch(driver, pool, units, rows, kv_heads, group))
        self.count = max(first + count for first, count, _ in units)
        self.table = query_units(units, self.count, 2)
        self.queries = torch.randn(self.count, kv_heads * group, HEAD_DIM,
                                   device=DEVICE).to(MODEL_TYPES[fmt])
        self.out = torch.empty_like(self.queries)
        self.source = 'bf16' if fmt == 'bf16' else 'f16'
        self.new = torch.randn(self.count, kv_heads, HEAD_DIM, device=DEVICE,
                               dtype=MODEL_TYPES[fmt])
        # The last units are those that grow.
        grown = units[-self.count:]
        first = len(units) - len(grown)
        self.tokens = torch.tensor([[first + i, 1] for i in range(len(grown))],
                                   dtype=torch.int32, device=DEVICE)
        for launch in self.launches:
            launch.plan()

    def attend(self):
        for launch in self.launches:
            launch.attend(self.queries)

    def all(self):
        """append, attend and merge as a step has them: all but append begin early."""
        for launch in self.launches:
            pool = launch.pool
            self.driver.launch(
                f'append_{self.source}_{pool.fmt}_d{HEAD_DIM}',
                (-(-self.count * self.kv_heads // 4),), 128,
                [self.new, self.new, self.tokens, *pool.layout(), pool.table, pool.lengths,
                 self.count, self.kv_heads, pool.max_blocks, pool.shift])
            launch.attend(self.queries, early=True)
            merge(self.driver, self.out, launch.parts(self.table), self.kv_heads, self.group)

    def report(self, label, copy):
        attend, both = (time_ms(f) / self.layers for f in (self.attend, self.all))
        rate, whole = (self.bytes / t / 1e6 for t in (attend, both))
        print(f'{label}: {self.bytes / 1e6:.0f} MB; attend {attend * 1e3:.1f} us, {rate:.0f} GB/s, '
              f'{rate / copy:.2f} of copy; with append and merge {both * 1e3:.1f} us, '
              f'{whole:.0f} GB/s, {whole / copy:.2f}', flush=True)
        return both


def bench_decode(driver, copy):
    for model, (kv_heads, group) in MODELS.items():
        for requests in (1, 16):
            for keep in (1, 0.3):
                lengths = ragged(keep, requests * kv_heads)
                units = [(q, 1, 0) for q in range(requests)]
                Step(driver, 'f16', kv_heads, group, (lengths, units, 16)).report(
                    f'decode {model} f16, {requests} x {CONTEXT} x {keep}', copy)
    for fmt, block_size in (('bf16', 64), ('i8c', 64), ('i8r', 64), ('f16', 16), ('f16', 32),
                            ('f16', 128), ('f16', 256)):
        lengths = ragged(0.3, 64)
        Step(driver, fmt, 4, 7, (lengths, [(q, 1, 0) for q in range(16)], 16),
             block_size).report(f'decode Qwen2.5-7B {fmt}, 16 x {CONTEXT} x 0.3, blocks of '
                                f'{block_size}', copy)


def bench_shared(driver, copy):
    for model, (kv_heads, group) in MODELS.items():
        queries = 16
        tails = ([64] * queries * kv_heads, [(q, 1, 1) for q in range(queries)])
        apart = Step(driver, 'f16', kv_heads, group,
                     ([CONTEXT] * queries * kv_heads + tails[0],
                      [(q, 1, 0) for q in range(queries)] + tails[1], 16))
        separate = apart.report(f'{model}, 16 queries on 16 contexts x 1.0, with tails', copy)
        del apart
        rows = next(r for r in (16, 64, 128) if r >= queries * group)
        for keep in (1, 0.3):
            shared = Step(driver, 'f16', kv_heads, group,
                          (ragged(keep, kv_heads) + tails[0], [(0, queries, 0)] + tails[1], rows))
            t = shared.report(f'{model}, 16 queries on one context x {keep}, with tails', copy)
            print(f'  {t / separate:.3f} of 16 contexts')


def bench_rows(driver, copy):
    """compact and load: 28 layers would be 28 of these."""
    heads, capacity, kept = 4, CONTEXT, int(CONTEXT * 0.3)
    dense = [torch.randn(heads, capacity, HEAD_DIM, device=DEVICE).half() for _ in range(2)]
    listed = torch.cat([torch.randperm(capacity)[:kept] for _ in range(heads)]).int().to(DEVICE)
    starts = (torch.arange(heads + 1) * kept).int().to(DEVICE)
    for fmt in ('f16', 'i8r'):
        pool = Pool(fmt, [kept] * heads, HEAD_DIM, 64)
        moved = 2 * heads * kept * HEAD_DIM * (2 + pool.keys.element_size())
        t = time_ms(lambda: driver.launch(
            f'compact_f16_{fmt}_d128', (-(-kept // 8), heads), 256,
            [*dense, listed, starts, *pool.layout(), pool.table, Long(capacity),
             pool.max_blocks, pool.shift]))
        print(f'compact f16 to {fmt}: {t * 1e3:.1f} us, {moved / t / 1e6:.0f} GB/s read and '
              f'written, {moved / t / 1e6 / copy:.2f} of copy')
    pool = Pool('f16', [kept] * heads, HEAD_DIM, 64)
    for staged, row_bytes in (('f16', 256), ('i8', 130)):
        rows = 126 if staged == 'f16' else 248
        pieces = [(0, min(rows, kept - first), first, h) for h in range(heads)
                  for first in range(0, kept, rows)]
        size = -(-2 * rows * row_bytes // 16)
        pieces = [(i * size, *p[1:]) for i, p in enumerate(pieces)]
        for place in ('device', 'pinned host'):
            staging = torch.zeros(len(pieces) * size * 16, dtype=torch.uint8)
            staging = staging.to(DEVICE) if place == 'device' else staging.pin_memory()
            table = torch.tensor(pieces, dtype=torch.int32, device=DEVICE)
            t = time_ms(lambda: driver.launch(
                f'load_{staged}_f16_d128', (4, len(pieces)), 256,
                [staging, table, *pool.layout()[:4], pool.table, pool.max_blocks, pool.shift]))
            print(f'load {staged} from {place}: {t * 1e3:.1f} us, '
                  f'{staging.nbytes / t / 1e6:.0f} GB/s of staging read')


def main():
    random.seed(1)
    torch.manual_seed(1)
    wanted = sys.argv[1:] or ['decode', 'shared', 'score', 'rows']
    driver = Driver()
    copy = copy_rate()
    print(f'{torch.cuda.get_device_name(0)}: copy {copy:.0f} GB/s, read and written', flush=True)
    suites = {'decode': bench_decode, 'shared': bench_shared, 'rows': bench_rows,
              'score': lambda d, _: bench_score(d, time_ms)}
    for name in wanted:
        if name in suites:
            suites[name](driver, copy)
            torch.cuda.empty_cache()


main()
