"""append, compact, channel_scales, load, store: every element, and nothing beside them."""

import random

import numpy
import torch

from driver import Long
from paged import BAD_BLOCK, DEVICE, NAN, MODEL_TYPES, Pool, poisoned

STAGED = {'f16': numpy.float16, 'f32': numpy.float32}


def encode_int8(x):
    """The precision `int8` as the CPU engine writes it: bytes and largest magnitudes of rows."""
    halves = x.to(torch.float16)
    largest = halves.abs().amax(-1)
    wide = largest.double()
    # By a tensor: PyTorch divides by a number as a product with its inverse, which rounds twice.
    scale = torch.where(wide > 0, torch.full_like(wide, 127) / wide, torch.zeros_like(wide))
    return torch.floor(halves.double() * scale[..., None] + 0.5).to(torch.int8), largest


def decode_int8(bytes_, largest):
    wide = largest.double()
    return (bytes_.double() * (wide / torch.full_like(wide, 127))[..., None]).float()


def expect_pool(pool, s, which, source):
    """Asserts that a sequence's rows are `source` [rows, headDim] in the pool's format."""
    rows = pool.rows(s, len(source))
    stored = getattr(pool, which).view(-1, pool.head_dim)[rows]
    key = 'key' if which == 'keys' else 'value'
    if pool.fmt == 'i8r':
        expected, largest = encode_int8(source)
        got = getattr(pool, f'{key}_largest').view(-1)[rows]
        assert torch.equal(got, largest), f'{which}: largest magnitudes differ'
    elif pool.fmt == 'i8c':
        scales = getattr(pool, f'{key}_scales')[s]
        expected = torch.round(source.float() / scales).clamp(-127, 127).to(torch.int8)
    else:
        expected = source.to(stored.dtype)
    assert torch.equal(stored, expected), f'{pool.fmt} {which} of sequence {s} differ'


def expect_untouched(pool, kept):
    """Asserts that rows outside `kept` (indices) still hold their poison."""
    mask = torch.ones(pool.keys.shape[0] * pool.block_size, dtype=torch.bool, device=DEVICE)
    mask[kept] = False
    for x in (pool.keys, pool.values):
        rest = x.view(-1, pool.head_dim)[mask]
        is_poison = rest == -128 if rest.dtype == torch.int8 else torch.isnan(rest)
        assert is_poison.all(), f'{pool.fmt}: a row outside was written'


def check_append(driver, fmt, head_dim):
    kv_heads, units = random.randint(1, 4), random.randint(1, 6)
    source = 'bf16' if fmt == 'bf16' else 'f16'
    added = [random.randint(0, 3) for _ in range(units)]
    lengths = [added[u] + random.choice([0, 1, 15, 16, 63, 200])
               for u in range(units) for _ in range(kv_heads)]
    pool = Pool(fmt, lengths, head_dim, random.choice([16, 64]))
    tokens = [(u, back) for u in range(units) for back in range(added[u], 0, -1)] + [(-1, 1)]
    random.shuffle(tokens)
    keys, values = (torch.randn(len(tokens), kv_heads, head_dim, device=DEVICE)
                    .to(MODEL_TYPES[source]) for _ in range(2))
    listed = torch.tensor(tokens, dtype=torch.int32, device=DEVICE)
    driver.launch(f'append_{source}_{fmt}_d{head_dim}', (-(-len(tokens) * kv_heads // 4),), 128,
                  [keys, values, listed, *pool.layout(), pool.table, pool.lengths, len(tokens),
                   kv_heads, pool.max_blocks, pool.shift])
    written = [torch.zeros(0, dtype=torch.int64, device=DEVICE)]
    for s, length in enumerate(lengths):
        u = s // kv_heads
        order = [tokens.index((u, back)) for back in range(added[u], 0, -1)]
        rows = pool.rows(s)[length - added[u]:]
        written.append(rows)
        for which, new in (('keys', keys), ('values', values)):
            view = _Tail(pool, s, rows)
            expect_pool(view, s, which, new[order, s % kv_heads])
    expect_untouched(pool, torch.cat(written))


class _Tail:
    """A pool whose sequence has only the given rows."""

    def __init__(self, pool, s, rows):
        self.__dict__.update(pool.__dict__)
        self.rows = lambda _s, _count: rows


def check_compact(driver, source, fmt, head_dim):
    kv_heads, capacity = random.randint(1, 4), random.randint(1, 900)
    kept = [random.choice([0, 1, capacity, random.randint(0, capacity)]) for _ in range(kv_heads)]
    pool = Pool(fmt, kept, head_dim, random.choice([16, 64, 128]))
    keys, values = (torch.randn(kv_heads, capacity, head_dim, device=DEVICE)
                    .mul(3).to(MODEL_TYPES[source]) for _ in range(2))
    indices = [torch.randperm(capacity)[:n] for n in kept]
    listed = torch.cat([*indices, torch.tensor([BAD_BLOCK])]).int().to(DEVICE)
    starts = torch.tensor([0, *numpy.cumsum(kept).tolist()], dtype=torch.int32, device=DEVICE)
    if fmt == 'i8c':
        pool.key_scales.zero_()
        pool.value_scales.zero_()
        driver.launch(f'channel_scales_{source}_d{head_dim}',
                      (max(-(-max(kept) // 512), 1), kv_heads, 2), 256,
                      [keys, values, listed, starts, pool.key_scales, pool.value_scales,
                       Long(capacity)])
        for h, index in enumerate(indices):
            for scales, x in ((pool.key_scales, keys), (pool.value_scales, values)):
                rows = x[h, index.to(DEVICE)].float().abs()
                expected = (torch.div(rows.amax(0), torch.full_like(scales[h], 127))
                            if len(index) else torch.zeros_like(scales[h]))
                assert torch.equal(scales[h], expected), 'channel scales differ'
    driver.launch(f'compact_{source}_{fmt}_d{head_dim}',
                  (random.choice([1, 3, -(-max(*kept, 1) // 8)]), kv_heads), 256,
                  [keys, values, listed, starts, *pool.layout(), pool.table, Long(capacity),
                   pool.max_blocks, pool.shift])
    for h, index in enumerate(indices):
        expect_pool(pool, h, 'keys', keys[h, index.to(DEVICE)])
        expect_pool(pool, h, 'values', values[h, index.to(DEVICE)])
    expect_untouched(pool, torch.cat([pool.rows(h) for h in range(kv_heads)]))


def staged_bytes(staged, x):
    """Rows as they lie on disk."""
    if staged == 'i8':
        bytes_, largest = encode_int8(x)
        packed = torch.cat([largest[:, None].view(torch.uint8), bytes_.view(torch.uint8)], 1)
        return packed.cpu().numpy().tobytes()
    return x.cpu().numpy().astype(STAGED[staged]).tobytes()


def make_staging(staged, lengths, head_dim):
    """Pieces of every sequence, some of one row; returns bytes, pieces and the rows of each."""
    staging, pieces, rows = bytearray(), [], {}
    for s, length in enumerate(lengths):
        rows[s] = [torch.randn(length, head_dim, device=DEVICE).mul(2).half() for _ in range(2)]
        first = 0
        while first < length:
            count = min(random.choice([1, 7, 100, 300]), length - first)
            staging += b'\xff' * (-len(staging) % 16 + random.choice([0, 64]))
            pieces.append((len(staging) // 16, count, first, s))
            for x in rows[s]:
                staging += staged_bytes(staged, x[first:first + count])
            first += count
    random.shuffle(pieces)
    return bytes(staging) + b'\xff' * 16, pieces, rows


def check_transfer(driver, staged, fmt, head_dim):
    """load, then store what was loaded and compare bytes."""
    lengths = [random.choice([0, 1, 16, 17, 500]) for _ in range(random.randint(1, 5))] + [3]
    pool = Pool(fmt, lengths, head_dim, random.choice([16, 64]))
    content, pieces, rows = make_staging(staged, lengths, head_dim)
    staging = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(DEVICE)
    listed = torch.tensor(pieces, dtype=torch.int32, device=DEVICE)
    grid = (random.choice([1, 2, 40]), len(pieces))
    arguments = [*pool.layout()[:4], pool.table, pool.max_blocks, pool.shift]
    driver.launch(f'load_{staged}_{fmt}_d{head_dim}', grid, 256, [staging, listed, *arguments])
    for s in range(len(lengths)):
        for which, x in zip(('keys', 'values'), rows[s]):
            expected = decode_int8(*encode_int8(x)) if staged == 'i8' and fmt != 'i8r' else x
            expect_pool(pool, s, which, expected)
    expect_untouched(pool, torch.cat([pool.rows(s) for s in range(len(lengths))]))
    if fmt == 'bf16':
        return  # a coarser type: its own bytes do not come back
    back = torch.full_like(staging, 255)
    driver.launch(f'store_{fmt}_{staged}_d{head_dim}', grid, 256, [back, listed, *arguments])
    assert torch.equal(back, staging), f'store_{fmt}_{staged} gives other bytes than were loaded'


def check_store_bf16(driver, staged, head_dim):
    pool = Pool('bf16', [0, 1, 77], head_dim, 16).fill()
    row_bytes = head_dim + 2 if staged == 'i8' else head_dim * numpy.dtype(STAGED[staged]).itemsize
    pieces = torch.tensor([[1, 1, 0, 1], [(16 + 2 * row_bytes) // 16 + 1, 77, 0, 2]],
                          dtype=torch.int32, device=DEVICE)
    size = int(pieces[1, 0]) * 16 + 2 * 77 * row_bytes
    back = torch.zeros(size, dtype=torch.uint8, device=DEVICE)
    driver.launch(f'store_bf16_{staged}_d{head_dim}', (2, 2), 256,
                  [back, pieces, *pool.layout()[:4], pool.table, pool.max_blocks, pool.shift])
    for offset16, count, _, s in pieces.tolist():
        keys, values = (x.float() for x in pool.read(s))
        expected = staged_bytes(staged, keys) + staged_bytes(staged, values)
        got = back[offset16 * 16:offset16 * 16 + len(expected)].cpu().numpy().tobytes()
        assert got == expected, f'store_bf16_{staged} differs'


def check_copy_bf16(driver, head_dim):
    """A pool's rows to staging and into another pool: the same bits, whatever they are."""
    pool, other = (Pool('bf16', [5, 33], head_dim, 16) for _ in range(2))
    for x in (pool.keys, pool.values):
        x.view(torch.int16).random_(-2**15, 2**15)
    row_bytes = 2 * head_dim
    pieces = torch.tensor([[0, 5, 0, 0], [10 * row_bytes // 16, 33, 0, 1]], dtype=torch.int32,
                          device=DEVICE)
    staging = torch.zeros(76 * row_bytes, dtype=torch.uint8, device=DEVICE)
    for name, which in (('store', pool), ('load', other)):
        driver.launch(f'{name}_bf16_bf16_d{head_dim}', (2, 2), 256,
                      [staging, pieces, *which.layout()[:4], which.table, which.max_blocks,
                       which.shift])
    for s in range(2):
        for a, b in ((pool.keys, other.keys), (pool.values, other.values)):
            got, expected = (x.view(-1, head_dim)[p.rows(s)] for x, p in ((b, other), (a, pool)))
            # A number that is none may be another one that is none.
            numbers = ~torch.isnan(expected)
            assert torch.equal(torch.isnan(got), ~numbers)
            assert torch.equal(got.view(torch.int16)[numbers], expected.view(torch.int16)[numbers])


def check_not_finite(driver, head_dim):
    """A row with an element that is not finite gets an infinite magnitude; the others do not."""
    pool = Pool('f16', [4], head_dim, 16).fill()
    rows = pool.rows(0)
    keys = pool.keys.view(-1, head_dim)
    keys[rows[1], 3], keys[rows[2], head_dim - 1] = NAN, -float('inf')
    row_bytes = head_dim + 2
    pieces = torch.tensor([[0, 4, 0, 0]], dtype=torch.int32, device=DEVICE)
    staging = torch.zeros(8 * row_bytes, dtype=torch.uint8, device=DEVICE)
    driver.launch(f'store_f16_i8_d{head_dim}', (1, 1), 256,
                  [staging, pieces, *pool.layout()[:4], pool.table, pool.max_blocks, pool.shift])
    largest = staging.view(8, row_bytes)[:, :2].contiguous().view(torch.float16)[:, 0]
    assert torch.isinf(largest).tolist() == [False, True, True] + 5 * [False]


def check_zero_rows(driver):
    """A row of zeros has a scale of zero, and comes back as zeros."""
    pool = Pool('i8r', [2], 64, 16)
    zeros = torch.zeros(1, 2, 64, dtype=torch.float16, device=DEVICE)
    starts = torch.tensor([0, 2], dtype=torch.int32, device=DEVICE)
    kept = torch.tensor([1, 0], dtype=torch.int32, device=DEVICE)
    driver.launch('compact_f16_i8r_d64', (1, 1), 256,
                  [zeros, zeros, kept, starts, *pool.layout(), pool.table, Long(2),
                   pool.max_blocks, pool.shift])
    keys, values = pool.read(0)
    assert (keys == 0).all() and (values == 0).all()


def check(driver, trials, _is_small):
    for head_dim in (64, 128):
        for _ in range(trials):
            for fmt in ('f16', 'bf16', 'i8c', 'i8r'):
                check_append(driver, fmt, head_dim)
            for source, fmt in (('f16', 'f16'), ('bf16', 'bf16'), ('bf16', 'f16'), ('f16', 'i8c'),
                                ('bf16', 'i8c'), ('f16', 'i8r'), ('bf16', 'i8r')):
                check_compact(driver, source, fmt, head_dim)
            for staged, fmt in (('f16', 'f16'), ('f32', 'f16'), ('f16', 'bf16'), ('f32', 'bf16'),
                                ('i8', 'f16'), ('i8', 'bf16'), ('i8', 'i8r')):
                check_transfer(driver, staged, fmt, head_dim)
            for staged in ('f16', 'f32', 'i8'):
                check_store_bf16(driver, staged, head_dim)
            check_copy_bf16(driver, head_dim)
            check_not_finite(driver, head_dim)
    check_zero_rows(driver)
    return {}  # all exact
