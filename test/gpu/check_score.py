"""score_rows and score_keys against float64."""

import math
import random

import torch

from driver import Long
from paged import DEVICE, poisoned

# Products of halves are exact and summed in float32, and logits stay below 2^6: an error of 2^-18
# in one is 2^-18 of a probability. exp2 and log2 add as much.
TOLERANCE = 1e-4


def score(driver, case, scores, first=0, end=None, splits=1, log_sums=None):
    """Scores of tokens first … end of the pass, maximised into `scores` [kvHeads, chunk]."""
    q, cached, own = case['queries'], case['cached'], case['own']
    end = q.shape[0] if end is None else end
    heads, head_dim = q.shape[1:]
    kv_heads = cached.shape[0]
    kind = 'bf16' if q.dtype == torch.bfloat16 else 'f16'
    name = f'{kind}_d{head_dim}'
    count = end - first
    log_sums = poisoned(heads, count) if log_sums is None else log_sums
    scale = math.log2(math.e) / math.sqrt(head_dim)
    strides = [Long(heads * head_dim), Long(cached.stride(0))]
    shape = [count, heads, kv_heads]
    start, length = case['chunk']
    driver.launch(f'score_rows_{name}', (-(-count // 128), heads), 128,
                  [q[first:], cached, own, log_sums, *strides, Long(own.stride(0)),
                   *shape, case['prefix'], start, length, first, scale], 384 * head_dim)
    driver.launch(f'score_keys_{name}', (-(-length // 128), heads, splits), 128,
                  [q[first:], cached, log_sums, scores, *strides, Long(scores.shape[1]), *shape,
                   start, length, scale], 384 * head_dim)


def reference(case):
    q, cached, own = (case[x].double() for x in ('queries', 'cached', 'own'))
    tokens, heads, head_dim = q.shape
    kv_heads = cached.shape[0]
    group = heads // kv_heads
    start, length = case['chunk']
    prefix = case['prefix']
    out = torch.zeros(kv_heads, length, dtype=torch.float64, device=DEVICE)
    hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=DEVICE).triu(1)
    for h in range(heads):
        k = h // group
        keys = torch.cat([cached[k, :prefix], cached[k, start:start + length], own[k, :tokens]])
        logits = q[:, h] @ keys.T / math.sqrt(head_dim)
        logits[:, prefix + length:][hidden] = -math.inf
        p = torch.softmax(logits, -1)[:, prefix:prefix + length]
        out[k] = torch.maximum(out[k], p.amax(0))
    return out


def random_case(dtype, head_dim, most):
    kv_heads = random.randint(1, 3)
    group = random.choice([1, 2, 3, 7])
    tokens = random.choice([1, 2, 63, 64, 65, 127, 128, 129, random.randint(1, most)])
    length = random.choice([1, 2, 63, 64, 65, 127, 128, 129, random.randint(1, most)])
    prefix = random.choice([0, 1, 5, 64, random.randint(0, 100)])
    start = prefix + random.randint(0, 200)
    capacity = start + length + random.randint(0, 50)

    def rows(*shape):
        return (torch.randn(*shape, device=DEVICE) * random.choice([1, 2])).to(dtype)

    cached = rows(kv_heads, capacity, head_dim)
    cached[:, prefix:start] = math.nan
    cached[:, start + length:] = math.nan
    own = rows(kv_heads, tokens + 3, head_dim)
    own[:, tokens:] = math.nan
    queries = rows(tokens, kv_heads * group, head_dim)
    return {'queries': queries, 'cached': cached, 'own': own, 'prefix': prefix,
            'chunk': (start, length)}


def check_one(driver, dtype, head_dim, most):
    case = random_case(dtype, head_dim, most)
    expected = reference(case)
    guard = 7
    kv_heads, length = expected.shape
    scores = torch.zeros(kv_heads, length + guard, device=DEVICE)
    scores[:, length:] = -5
    tokens = case['queries'].shape[0]
    if random.random() < 0.5:
        score(driver, case, scores, splits=random.choice([1, 2, 5]))
    else:  # in runs of tokens, over a growing tail
        step = random.choice([1, 50, 128, 200]) if tokens < 300 else 256
        for first in range(0, tokens, step):
            score(driver, case, scores, first, min(first + step, tokens))
    assert (scores[:, length:] == -5).all(), 'score_keys wrote past the chunk'
    got = scores[:, :length].double()
    assert torch.isfinite(got).all()
    e = float(((got - expected).abs() / expected.clamp(min=1e-30)).max())
    assert e < TOLERANCE, (f'score: error {e:.2e}; tokens {tokens}, chunk {case["chunk"]}, '
                           f'prefix {case["prefix"]}, {dtype}, head dim {head_dim}')
    return e


def check(driver, trials, is_small):
    most = 200 if is_small else 2500
    worst = 0
    for dtype in (torch.float16, torch.bfloat16):
        for head_dim in (64, 128):
            for _ in range(trials):
                worst = max(worst, check_one(driver, dtype, head_dim, most))
    return {'score': worst}
