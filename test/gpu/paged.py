"""Paged pools for tests: shuffled blocks, poison everywhere that holds no row."""

import math

import torch

DEVICE = 'cuda'
NAN = float('nan')
BAD_BLOCK = 1 << 29  # an entry that no kernel may follow

MODEL_TYPES = {'f16': torch.float16, 'bf16': torch.bfloat16, 'i8c': torch.float16,
               'i8r': torch.float16}


def poisoned(*shape, dtype=torch.float32):
    """Memory that a kernel must write: NaN, or −128, which no kernel writes."""
    if dtype == torch.int8:
        return torch.full(shape, -128, dtype=dtype, device=DEVICE)
    return torch.full(shape, NAN, dtype=dtype, device=DEVICE)


class Pool:
    """Keys and values of one layer's sequences in one stored format: f16, bf16, i8c or i8r."""

    def __init__(self, fmt, lengths, head_dim, block_size, spare_blocks=3):
        self.fmt = fmt
        self.head_dim = head_dim
        self.shift = int(math.log2(block_size))
        self.block_size = block_size
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
        counts = [-(-length // block_size) for length in lengths]
        self.max_blocks = max(counts + [1]) + 1
        blocks = sum(counts) + spare_blocks
        order = torch.randperm(blocks)
        table = torch.full((len(lengths), self.max_blocks), BAD_BLOCK, dtype=torch.int32)
        used = 0
        for s, count in enumerate(counts):
            table[s, :count] = order[used:used + count]
            used += count
        self.table = table.to(DEVICE)
        dtype = torch.int8 if fmt.startswith('i8') else MODEL_TYPES[fmt]
        self.keys = poisoned(blocks, block_size, head_dim, dtype=dtype)
        self.values = poisoned(blocks, block_size, head_dim, dtype=dtype)
        row_scaled = fmt == 'i8r'
        self.key_largest = poisoned(blocks, block_size, dtype=torch.float16) if row_scaled else None
        self.value_largest = (poisoned(blocks, block_size, dtype=torch.float16) if row_scaled
                              else None)
        scale_shape = (len(lengths), head_dim)
        self.key_scales = _scales(scale_shape) if fmt == 'i8c' else None
        self.value_scales = _scales(scale_shape) if fmt == 'i8c' else None

    def rows(self, s, count=None):
        """Indices of a sequence's rows in the pool seen as [rows, headDim]."""
        count = int(self.lengths[s]) if count is None else count
        r = torch.arange(count, device=DEVICE)
        blocks = self.table[s].long()[r // self.block_size]
        return blocks * self.block_size + r % self.block_size

    def fill(self):
        """Random pairs in every row that exists, a few of them large."""
        for s in range(len(self.lengths)):
            rows = self.rows(s)
            if len(rows) == 0:
                continue
            for pool, largest in ((self.keys, self.key_largest),
                                  (self.values, self.value_largest)):
                flat = pool.view(-1, self.head_dim)
                if self.fmt.startswith('i8'):
                    flat[rows] = torch.randint(-127, 128, (len(rows), self.head_dim),
                                               dtype=torch.int8, device=DEVICE)
                else:
                    x = torch.randn(len(rows), self.head_dim, device=DEVICE)
                    x[torch.rand(len(rows), device=DEVICE) < 0.02] *= 4
                    flat[rows] = x.to(pool.dtype)
                if largest is not None:
                    largest.view(-1)[rows] = (
                        0.5 + 3 * torch.rand(len(rows), device=DEVICE)).half()
        return self

    def read(self, s):
        """A sequence's keys and values in float64, as their stored bytes say."""
        rows = self.rows(s)
        return (self._decode(self.keys, self.key_largest, self.key_scales, s, rows),
                self._decode(self.values, self.value_largest, self.value_scales, s, rows))

    def _decode(self, pool, largest, scales, s, rows):
        x = pool.view(-1, self.head_dim)[rows].double()
        if largest is not None:
            x = x * (largest.view(-1)[rows].double() / 127)[:, None]
        if scales is not None:
            x = x * scales[s].double()
        return x

    def part(self, units, kv_heads):
        """Some units' sequences as a pool of their own, over the same memory."""
        chosen = [u * kv_heads + h for u in units for h in range(kv_heads)]
        part = object.__new__(Pool)
        part.__dict__.update(self.__dict__)
        part.lengths, part.table = self.lengths[chosen].clone(), self.table[chosen].contiguous()
        if self.key_scales is not None:
            part.key_scales = self.key_scales[chosen].contiguous()
            part.value_scales = self.value_scales[chosen].contiguous()
        return part

    def layout(self):
        """The arguments keys … valueScales of the kernels."""
        return [self.keys, self.values, self.key_largest, self.value_largest, self.key_scales,
                self.value_scales]


def _scales(shape):
    return (0.2 + torch.rand(shape, device=DEVICE)) / 100
