"""logits against float64, largest and convert exactly; nothing written beside them."""

import math
import random

import torch

from driver import Long
from paged import DEVICE, poisoned

# Of the sum of magnitudes. Products of halves are exact; up to 224 partial sums, each about the
# root of the number of terms so far, lose 2^-23 of themselves: below 1e-6. One product left out of
# 3,584 would be 4e-4.
TOLERANCE = 1e-5

GUARD = 77
TYPES = {'f16': torch.float16, 'bf16': torch.bfloat16, 'f32': torch.float32}
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 65504.0, 65519.9, 65520.0, -65520.0, 2.0**-14,
           2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 1e-45, 3.4e38, 1 + 2.0**-11, 1 + 3 * 2.0**-11]


def logits(driver, kind, hidden, matrix, rows, outputs):
    """The kernel's results [rows, outputs], which it must write, and nothing behind them."""
    out = poisoned(rows * outputs + GUARD)
    driver.launch(f'logits_{kind}', (-(-outputs // 256), -(-rows // 16)), 256,
                  [hidden, matrix, out, rows, hidden.shape[1], outputs])
    assert torch.isnan(out[rows * outputs:]).all(), 'logits wrote past its rows'
    return out[:rows * outputs].view(rows, outputs)


def check_logits(driver, kind, rows, inputs, most_outputs):
    outputs = random.choice([1, 7, 9, 255, 257, 263, random.randint(264, most_outputs)])
    outputs += outputs % 8 == 0
    # Rows and outputs that do not exist are NaN: one that is read anyway shows.
    hidden = poisoned(rows + 16, inputs, dtype=TYPES[kind])
    matrix = poisoned(outputs + 8, inputs, dtype=TYPES[kind])
    hidden[:rows] = torch.randn(rows, inputs, device=DEVICE).mul(2)
    matrix[:outputs] = torch.randn(outputs, inputs, device=DEVICE).mul(0.05)
    got = logits(driver, kind, hidden, matrix, rows, outputs)
    h, m = hidden[:rows].double(), matrix[:outputs].double()
    case = f'{rows} rows, {inputs} inputs, {outputs} outputs, {kind}'
    assert torch.isfinite(got).all(), f'logits: not finite; {case}'
    e = float(((got.double() - h @ m.T).abs() / (h.abs() @ m.abs().T)).max())
    assert e < TOLERANCE, f'logits: error {e:.2e}; {case}'
    for row in {0, rows - 1, random.randrange(rows)}:
        alone = logits(driver, kind, hidden[row:], matrix, 1, outputs)
        assert torch.equal(alone[0], got[row]), f'logits: row {row} differs alone; {case}'
    return e


def largest(driver, x):
    rows, outputs = x.shape
    out = torch.full((rows + GUARD,), -7, dtype=torch.int32, device=DEVICE)
    driver.launch('largest', (rows,), 1024, [x, out, outputs])
    assert (out[rows:] == -7).all(), 'largest wrote past its rows'
    return out[:rows].tolist()


def check_largest(driver, outputs):
    """Rows whose answers are known, in random order."""
    def noise():
        return torch.randn(outputs, device=DEVICE)

    def filled(value):
        return torch.full((outputs,), value, device=DEVICE)

    def with_at(row, places, value):
        row[torch.tensor(places, device=DEVICE)] = value
        return row

    some = random.sample(range(outputs), min(outputs, random.randint(1, 5)))
    one = random.randrange(outputs)
    last = outputs - 1
    cases = [
        (with_at(noise(), some, 50.0), min(some)),
        (with_at(noise() - 100, [one], -50.0), one),
        (with_at(noise(), [last], 50.0), last),
        (filled(3.5), 0),
        (filled(-0.0), 0),
        (with_at(filled(-math.inf), [one], -2.0), one),
        (with_at(filled(-math.inf), [one], torch.finfo(torch.float32).min), one),
        (filled(-math.inf), -1),
        (with_at(noise(), [one], math.nan), -1),
        (with_at(filled(-math.inf), [one], math.nan), -1),
        (with_at(noise(), [one], math.inf), -1),
    ]
    random.shuffle(cases)
    got = largest(driver, torch.stack([row for row, _ in cases]))
    expected = [at for _, at in cases]
    assert got == expected, f'largest: {got} instead of {expected}; {outputs} outputs'


def check_signed_zeros(driver):
    """Zeros are equal, whatever their sign."""
    x = torch.full((2, 1500), -1.0, device=DEVICE)
    x[0, 3], x[0, 1400] = -0.0, 0.0
    x[1, 3], x[1, 1400] = 0.0, -0.0
    assert largest(driver, x) == [3, 3]


def every_number(kind, count):
    """`count` numbers of a type: all bit patterns of 16 bits, random ones of 32, and edges."""
    if kind == 'f32':
        bits = torch.randint(-2**31, 2**31, (count,), dtype=torch.int64, device=DEVICE)
        x = bits.to(torch.int32).view(torch.float32)
        x[::2] = torch.randn(len(x[::2]), device=DEVICE)
    else:
        bits = (torch.arange(count, device=DEVICE) % 65536 - 32768).to(torch.int16)
        x = bits.view(TYPES[kind])
    edges = torch.tensor(SPECIAL, device=DEVICE).to(TYPES[kind])[:count]
    x[:len(edges)] = edges
    return x


def check_convert(driver, source, target, count):
    x = every_number(source, count)
    out = poisoned(count + GUARD, dtype=TYPES[target])
    poison = out[count:].clone().view(torch.int16)
    grid = random.choice([1, 3, min(-(-count // 256), 4096)])
    driver.launch(f'convert_{source}_{target}', (grid,), 256, [x, out, Long(count)])
    expected = x.to(TYPES[target])
    got = out[:count]
    where = torch.isnan(expected)
    assert torch.equal(torch.isnan(got), where), f'convert_{source}_{target}: other NaNs'
    # By bits, so that zeros have their sign.
    same = got.view(torch.int16) == expected.view(torch.int16)
    assert (same | where).all(), f'convert_{source}_{target} rounds otherwise; {count} numbers'
    assert torch.equal(out[count:].view(torch.int16), poison), 'convert wrote past its numbers'


def check(driver, trials, is_small):
    worst = 0
    for _ in range(trials):
        for kind in ('f16', 'bf16'):
            for rows in (1, 5, 16, 33, 128):
                for inputs in (576, 3584):
                    most = 400 if is_small else 4000
                    worst = max(worst, check_logits(driver, kind, rows, inputs, most))
        for outputs in (1, 2, 31, 33, 1023, 1024, 1025, random.randint(1026, 50000)):
            check_largest(driver, outputs)
        for source, target in (('f32', 'f16'), ('bf16', 'f16'), ('f32', 'bf16'), ('f16', 'bf16')):
            for count in (1, 255, 257, 65536, 65536 + random.randint(1, 100000)):
                check_convert(driver, source, target, count)
    check_signed_zeros(driver)
    return {'logits': worst}
