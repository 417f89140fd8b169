"""plan, attend, merge against float64: ragged lengths, empty heads, every format and size."""

import random

import torch

from attention import (ENTRY_TILES, Launch, merge, pieces, query_units, reference)
from paged import DEVICE, MODEL_TYPES, Pool, poisoned

# ‖out − ref‖ / ‖ref‖. Weights and results are rounded to the model's type, by at most 2^-11 (f16)
# and 2^-8 (bf16) of themselves; both together, rounded up, are still little beside a wrong key.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 6e-3}
LENGTHS = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 192]


def error(out, ref):
    """Relative error; NaN or a missing element counts as infinite."""
    if not torch.isfinite(out).all():
        return float('inf')
    norm = ref.norm()
    return float((out.double() - ref).norm() / norm) if norm > 0 else float(out.double().norm())


def random_length(most):
    return random.choice(LENGTHS) if random.random() < 0.5 else random.randint(0, most)


def run(driver, pool, units, queries, shape, grid=None):
    """plan, attend and merge; `shape` is rows of the variant, KV heads and group."""
    launch = Launch(driver, pool, units, *shape, grid)
    launch.plan()
    launch.attend(queries)
    out = poisoned(*queries.shape, dtype=queries.dtype)
    merge(driver, out, launch.parts(query_units(units, len(queries), 2)), *shape[1:])
    return launch, out


def check_one(driver, fmt, head_dim, rows, most):
    kv_heads = random.randint(1, 4)
    group = random.choice([g for g in (1, 2, 3, 4, 7, 8, 14) if g <= rows])
    most_queries = rows // group
    units, queries = [], 0
    for _ in range(random.randint(1, 4)):
        count = random.randint(1, most_queries)
        units.append((queries, count, random.randint(0, 1)))
        queries += count
    if random.random() < 0.5:  # a second unit for the same queries, as a tail is to its context
        units += [(first, count, 1) for first, count, _ in units]
    lengths = [random_length(most) for _ in units for _ in range(kv_heads)]
    pool = Pool(fmt, lengths, head_dim, random.choice([16, 32, 64, 128, 256])).fill()
    q = torch.randn(queries, kv_heads * group, head_dim, device=DEVICE).to(MODEL_TYPES[fmt])
    expected = reference(q, pool, units, kv_heads, group)
    launch, out = run(driver, pool, units, q, (rows, kv_heads, group),
                      random.choice([None, 1, 2, 7, 50]))
    e = error(out, expected)
    assert e < TOLERANCE[q.dtype], (
        f'{launch.name}: error {e:.2e}; kv_heads {kv_heads}, group {group}, units {units}, '
        f'lengths {lengths}, grid {launch.grid}, block {pool.block_size}')
    return e


def check_company(driver, fmt, head_dim, most):
    """A query's result has the same bits alone and in company, in every variant, for any grid."""
    kv_heads, group = random.choice([(1, 1), (2, 7), (3, 3), (4, 4), (8, 4)])
    counts = [random.randint(1, 16 // group) for _ in range(random.randint(2, 5))]
    shared = [random_length(most) for _ in range(kv_heads)]
    tails = [random_length(200) for _ in counts for _ in range(kv_heads)]
    pool = Pool(fmt, shared + tails, head_dim, 32).fill()
    # All read one context, and each its own tail, as requests do.
    total = sum(counts)
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    units = [(0, total, 0)] + [(f, n, 1) for f, n in zip(firsts, counts)]
    q = torch.randn(total, kv_heads * group, head_dim, device=DEVICE).to(MODEL_TYPES[fmt])
    together = {}
    for rows in (16, 64, 128):
        if total * group <= rows:
            for grid in (None, 3):
                together[rows, grid] = run(driver, pool, units, q, (rows, kv_heads, group), grid)[1]
    for i, (first, count) in enumerate(zip(firsts, counts)):
        mine = pool.part([0, 1 + i], kv_heads)
        alone_units = [(0, count, 0), (0, count, 1)]
        for rows in (16, 64, 128):
            alone = run(driver, mine, alone_units, q[first:first + count].contiguous(),
                        (rows, kv_heads, group), random.choice([None, 1, 5]))[1]
            for key, out in together.items():
                assert torch.equal(alone, out[first:first + count]), (
                    f'{fmt} d{head_dim}: alone in r{rows} and in company in r{key[0]} differ; '
                    f'kv_heads {kv_heads}, group {group}, lengths {shared}, {tails}')


def check_plan(driver):
    """Many sequences and layers: more than one round of the thread block."""
    layers, count, kv_heads, group = 3, 211, 4, 3
    sequences = count * kv_heads
    lengths = torch.randint(0, 30000, (layers, sequences), dtype=torch.int32, device=DEVICE)
    lengths[:, ::5] = 0
    units = torch.randint(0, 4, (count, 4), dtype=torch.int32, device=DEVICE)
    starts = torch.full((layers, sequences + 1, 2), -1, dtype=torch.int32, device=DEVICE)
    driver.launch('plan', (layers,), 256, [lengths, units, starts, sequences, kv_heads, group, 64])
    for layer in range(layers):
        place = part = 0
        for s, length in enumerate(lengths[layer].tolist()):
            assert starts[layer, s].tolist() == [place, part], f'sequence {s} of layer {layer}'
            _, tiles, parts = pieces(length, 'f16', kv_heads)
            place += tiles + parts * ENTRY_TILES
            part += parts * int(units[s // kv_heads, 1]) * group
        assert starts[layer, sequences].tolist() == [place, part]


def check_far_blocks(driver):
    """Blocks past 4 GiB: offsets of 64 bits."""
    lengths, units = [700, 65], [(0, 3, 1)]
    pool = Pool('f16', lengths, 128, 64, spare_blocks=400_000).fill()
    q = torch.randn(3, 10, 128, device=DEVICE).half()
    _, out = run(driver, pool, units, q, (16, 2, 5))
    e = error(out, reference(q, pool, units, 2, 5))
    assert e < TOLERANCE[q.dtype], f'far blocks: error {e:.2e}'


def check_no_rows(driver):
    """Nothing to read at all: zeros."""
    pool = Pool('f16', [0, 0], 64, 16)
    q = torch.randn(2, 6, 64, device=DEVICE).half()
    assert (run(driver, pool, [(0, 2, 0)], q, (16, 2, 3))[1] == 0).all()


def check(driver, trials, is_small):
    most = 300 if is_small else 1500
    check_plan(driver)
    check_no_rows(driver)
    if not is_small:
        check_far_blocks(driver)
        check_one(driver, 'f16', 128, 16, most=40000)
    worst = {}
    for fmt in ('f16', 'bf16', 'i8c', 'i8r'):
        for head_dim in (64, 128):
            for rows in (16, 64, 128):
                for _ in range(trials):
                    e = check_one(driver, fmt, head_dim, rows, most)
                    worst[fmt] = max(worst.get(fmt, 0), e)
            for _ in range(trials):
                check_company(driver, fmt, head_dim, 10 * most)
    return worst
