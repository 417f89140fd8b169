"""plan, attend and merge as one call, and what they must give."""

import math

import torch

from paged import DEVICE, poisoned

ROWS_THREADS = {16: 128, 64: 128, 128: 256}
MOST_PIECES, LEAST_TILES, ENTRY_TILES = 192, 8, 3


def shared_bytes(fmt, head_dim, rows):
    """Dynamic shared memory of attend: the table of native/README.md as a formula."""
    row_bytes = head_dim * (1 if fmt.startswith('i8') else 2) + (2 if fmt == 'i8r' else 0)
    return 3 * 2 * tile_keys(fmt) * row_bytes + (256 if rows == 16 else 0)


def tile_keys(fmt):
    return 128 if fmt.startswith('i8') else 64


def pieces(length, fmt, kv_heads):
    """Tiles of a piece and of the sequence, and pieces: native/paged.cuh."""
    tiles = -(-length // tile_keys(fmt))
    if tiles == 0:
        return 0, 0, 0
    most = -(-MOST_PIECES // kv_heads)
    wanted = -(-tiles // max(LEAST_TILES, -(-tiles // most)))
    each = -(-tiles // wanted)
    return each, tiles, -(-tiles // each)


class Launch:
    """One launch of attend: a pool, its units, and room for the parts."""

    def __init__(self, driver, pool, units, rows, kv_heads, group, grid=None):
        self.driver, self.pool, self.rows = driver, pool, rows
        self.kv_heads, self.group = kv_heads, group
        self.sequences = len(pool.lengths)
        self.units = torch.tensor([[*u, 0] for u in units], dtype=torch.int32, device=DEVICE)
        self.name = f'attend_{pool.fmt}_d{pool.head_dim}_r{rows}'
        self.shared = shared_bytes(pool.fmt, pool.head_dim, rows)
        self.threads = ROWS_THREADS[rows]
        self.grid = grid or driver.resident(self.name, self.threads, self.shared)
        # Room for pieces of sequences of any length, were they as many rows as there are.
        parts = sum(count for _, count, _ in units) * group * kv_heads * -(-MOST_PIECES // kv_heads)
        self.partials = poisoned(parts, pool.head_dim)
        self.stats = poisoned(parts, 2)
        self.starts = torch.full((self.sequences + 1, 2), -1, dtype=torch.int32, device=DEVICE)

    def plan(self):
        self.driver.launch('plan', (1,), 256,
                           [self.pool.lengths, self.units, self.starts, self.sequences,
                            self.kv_heads, self.group, tile_keys(self.pool.fmt)])

    def attend(self, queries, early=False):
        pool = self.pool
        self.driver.launch(
            self.name, (self.grid,), self.threads,
            [queries, *pool.layout(), pool.table, pool.lengths, self.starts, self.units,
             self.partials, self.stats, self.sequences, self.kv_heads, self.group,
             pool.max_blocks, pool.shift, math.log2(math.e) / math.sqrt(pool.head_dim)],
            self.shared, early)

    def parts(self, query_units):
        """This launch's arguments of merge."""
        return [self.partials, self.stats, self.starts, self.units, query_units,
                query_units.shape[1]]


def merge(driver, out, parts, kv_heads, group, early=True):
    """`parts`: Launch.parts."""
    kind = 'bf16' if out.dtype == torch.bfloat16 else 'f16'
    head_dim = out.shape[-1]
    driver.launch(f'merge_{kind}_d{head_dim}', (out.shape[0], kv_heads * group), 256,
                  [out, *parts, kv_heads, group], early=early)


def query_units(units, queries, most):
    """[queries, most] the units that read each query, −1 for none."""
    table = torch.full((queries, most), -1, dtype=torch.int32)
    for q in range(queries):
        mine = [u for u, (first, count, _) in enumerate(units) if first <= q < first + count]
        table[q, :len(mine)] = torch.tensor(mine, dtype=torch.int32)
    return table.to(DEVICE)


def reference(queries, pool, units, kv_heads, group):
    """Attention in float64. Zeros where nothing is visible."""
    out = torch.zeros(queries.shape, dtype=torch.float64, device=DEVICE)
    count, _, head_dim = queries.shape
    pairs = [pool.read(s) for s in range(len(pool.lengths))]
    for q in range(count):
        for h in range(kv_heads):
            keys, values = [], []
            for u, (first, n, causal) in enumerate(units):
                if not first <= q < first + n:
                    continue
                k, v = pairs[u * kv_heads + h]
                visible = max(len(k) - (n - 1 - (q - first) if causal else 0), 0)
                keys.append(k[:visible])
                values.append(v[:visible])
            if sum(len(k) for k in keys) == 0:
                continue
            heads = slice(h * group, (h + 1) * group)
            logits = queries[q, heads].double() @ torch.cat(keys).T / math.sqrt(head_dim)
            out[q, heads] = torch.softmax(logits, -1) @ torch.cat(values)
    return out
