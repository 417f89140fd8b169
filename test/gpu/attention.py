"""plan, attend and merge as one call, and what they must give."""

import math

import torch

from paged import DEVICE, poisoned

ROWS_THREADS = {16: 128, 64: 256, 128: 256}
KEY_WARPS = {16: 4, 64: 2, 128: 1}


def shared_bytes(fmt, head_dim, rows):
    """Dynamic shared memory of attend: the table of native/README.md as a formula."""
    is_bytes = fmt.startswith('i8')
    tile_keys = 128 if is_bytes else 64
    row_bytes = head_dim * (1 if is_bytes else 2) + (2 if fmt == 'i8r' else 0)
    return 3 * 2 * tile_keys * row_bytes + (KEY_WARPS[rows] - 1) * rows * 8


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
        slots = self.grid + self.sequences
        self.partials = poisoned(slots, rows, pool.head_dim)
        self.stats = poisoned(slots, rows, 2)
        self.starts = torch.full((self.sequences + 1,), -1, dtype=torch.int32, device=DEVICE)

    def plan(self, new_tokens=None):
        tile_keys = 128 if self.pool.fmt.startswith('i8') else 64
        self.driver.launch('plan', (1,), 256, [self.pool.lengths, new_tokens, self.starts,
                                               self.sequences, self.kv_heads, tile_keys])

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
                query_units.shape[1], self.sequences, self.grid, self.rows]


NO_PARTS = [None, None, None, None, None, 0, 0, 0, 0]


def merge(driver, out, first, second, kv_heads, group, early=True):
    """`first`, `second`: Launch.parts, or NO_PARTS."""
    kind = 'bf16' if out.dtype == torch.bfloat16 else 'f16'
    head_dim = out.shape[-1]
    driver.launch(f'merge_{kind}_d{head_dim}', (out.shape[0], kv_heads * group), 256,
                  [out, *first, *second, kv_heads, group], early=early)


def query_units(units, queries, most):
    """[queries, most] the units that read each query, −1 for none."""
    table = torch.full((queries, most), -1, dtype=torch.int32)
    for q in range(queries):
        mine = [u for u, (first, count, _) in enumerate(units) if first <= q < first + count]
        table[q, :len(mine)] = torch.tensor(mine, dtype=torch.int32)
    return table.to(DEVICE)


def reference(queries, launches, kv_heads, group):
    """Attention in float64; `launches`: [(pool, units)]. Zeros where nothing is visible."""
    out = torch.zeros(queries.shape, dtype=torch.float64, device=DEVICE)
    count, _, head_dim = queries.shape
    pairs = {(i, s): pool.read(s) for i, (pool, _) in enumerate(launches)
             for s in range(len(pool.lengths))}
    for q in range(count):
        for h in range(kv_heads):
            keys, values = [], []
            for i, (_, units) in enumerate(launches):
                for u, (first, n, causal) in enumerate(units):
                    if not first <= q < first + n:
                        continue
                    k, v = pairs[i, u * kv_heads + h]
                    visible = max(len(k) - (n - 1 - (q - first) if causal else 0), 0)
                    keys.append(k[:visible])
                    values.append(v[:visible])
            if sum(len(k) for k in keys) == 0:
                continue
            heads = slice(h * group, (h + 1) * group)
            logits = queries[q, heads].double() @ torch.cat(keys).T / math.sqrt(head_dim)
            out[q, heads] = torch.softmax(logits, -1) @ torch.cat(values)
    return out
