"""plan, attend, merge against float64: ragged lengths, empty heads, every format and size."""

import random

import torch

from attention import NO_PARTS, Launch, merge, query_units, reference
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
    added = [min(lengths[u * kv_heads:(u + 1) * kv_heads] + [random.randint(0, 3)])
             for u in range(len(units))]
    pool = Pool(fmt, lengths, head_dim, random.choice([16, 32, 64, 128, 256])).fill()
    q = torch.randn(queries, kv_heads * group, head_dim, device=DEVICE).to(MODEL_TYPES[fmt])
    expected = reference(q, [(pool, units)], kv_heads, group)
    launch = Launch(driver, pool, units, rows, kv_heads, group,
                    random.choice([None, 1, 2, 7, 50]))
    # plan adds each unit's new rows to its lengths.
    new_tokens = torch.tensor(added, dtype=torch.int32, device=DEVICE)
    pool.lengths -= new_tokens.repeat_interleave(kv_heads)
    launch.plan(new_tokens)
    assert pool.lengths.tolist() == lengths, 'plan must add new tokens to lengths'
    launch.attend(q)
    out = poisoned(*q.shape, dtype=q.dtype)
    merge(driver, out, launch.parts(query_units(units, queries, 2)), NO_PARTS, kv_heads, group)
    e = error(out, expected)
    assert e < TOLERANCE[q.dtype], (
        f'{launch.name}: error {e:.2e}; kv_heads {kv_heads}, group {group}, units {units}, '
        f'lengths {lengths}, grid {launch.grid}, block {pool.block_size}')
    return e


def check_shared_context(driver, fmt, tail_fmt, kv_heads, group, queries, most):
    """Many queries on one context and a tail each: two launches, one merge."""
    rows = next(r for r in (16, 64, 128) if r >= queries * group)
    context_units = [(0, queries, 0)]
    tail_units = [(q, 1, 1) for q in range(queries)]
    context = Pool(fmt, [random_length(most) for _ in range(kv_heads)], 128, 64).fill()
    lengths = [n for _ in range(queries) for n in [random.randint(1, 90)] * kv_heads]
    tails = Pool(tail_fmt, lengths, 128, 16).fill()
    q = torch.randn(queries, kv_heads * group, 128, device=DEVICE).to(MODEL_TYPES[fmt])
    expected = reference(q, [(context, context_units), (tails, tail_units)], kv_heads, group)
    first = Launch(driver, context, context_units, rows, kv_heads, group)
    second = Launch(driver, tails, tail_units, 16, kv_heads, group)
    out = poisoned(*q.shape, dtype=q.dtype)
    for launch in (first, second):
        launch.plan()
        launch.attend(q)
    merge(driver, out, first.parts(query_units(context_units, queries, 1)),
          second.parts(query_units(tail_units, queries, 1)), kv_heads, group)
    e = error(out, expected)
    assert e < TOLERANCE[q.dtype], f'shared context {fmt}/{tail_fmt}: error {e:.2e}'
    return e


def check_plan(driver):
    """Many sequences and layers: more than one round of the thread block."""
    layers, units, kv_heads = 3, 211, 4
    sequences = units * kv_heads
    lengths = torch.randint(0, 500, (layers, sequences), dtype=torch.int32, device=DEVICE)
    lengths[:, ::5] = 0
    added = torch.randint(0, 4, (units,), dtype=torch.int32, device=DEVICE)
    expected = lengths + added.repeat_interleave(kv_heads)
    starts = torch.full((layers, sequences + 1), -1, dtype=torch.int32, device=DEVICE)
    driver.launch('plan', (layers,), 256, [lengths, added, starts, sequences, kv_heads, 64])
    assert torch.equal(lengths, expected)
    # A sequence that is not empty takes the room of three more tiles.
    sums = torch.cumsum((expected + 63) // 64 + 3 * (expected > 0), 1).int()
    assert torch.equal(starts[:, 1:], sums) and (starts[:, 0] == 0).all()


def check_far_blocks(driver):
    """Blocks past 4 GiB: offsets of 64 bits."""
    lengths, units = [700, 65], [(0, 3, 1)]
    pool = Pool('f16', lengths, 128, 64, spare_blocks=400_000).fill()
    q = torch.randn(3, 10, 128, device=DEVICE).half()
    launch = Launch(driver, pool, units, 16, 2, 5)
    launch.plan()
    launch.attend(q)
    out = poisoned(*q.shape, dtype=q.dtype)
    merge(driver, out, launch.parts(query_units(units, 3, 1)), NO_PARTS, 2, 5)
    e = error(out, reference(q, [(pool, units)], 2, 5))
    assert e < TOLERANCE[q.dtype], f'far blocks: error {e:.2e}'


def check_no_rows(driver):
    """Nothing to read at all: zeros."""
    pool = Pool('f16', [0, 0], 64, 16)
    launch = Launch(driver, pool, [(0, 2, 0)], 16, 2, 3)
    launch.plan()
    q = torch.randn(2, 6, 64, device=DEVICE).half()
    launch.attend(q)
    out = poisoned(*q.shape, dtype=q.dtype)
    merge(driver, out, launch.parts(query_units([(0, 2, 0)], 2, 1)), NO_PARTS, 2, 3)
    assert (out == 0).all()


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
    for fmt, tail in (('f16', 'f16'), ('bf16', 'bf16'), ('i8c', 'f16'), ('i8r', 'f16')):
        for kv_heads, group, queries in ((4, 7, 16), (8, 4, 5), (3, 3, 16), (1, 1, 1)):
            e = check_shared_context(driver, fmt, tail, kv_heads, group, queries, 2 * most)
            worst[f'shared {fmt}'] = max(worst.get(f'shared {fmt}', 0), e)
    return worst
