"""The score of one layer of Qwen2.5-7B beside the prefill pass that it is taken from."""

import math

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from check_score import score
from driver import Long
from paged import DEVICE

TOKENS, PAST, PREFIX, CHUNK = 2048, 30720, 32, 2000
HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER = 28, 4, 128, 3584, 18944


def _random(*shape):
    return torch.randn(*shape, device=DEVICE, dtype=torch.float16)


class Layer:
    """Matrix products and attention of one decoder layer; norms, RoPE and residuals left out."""

    def __init__(self):
        width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        self.qkv = _random(width, HIDDEN) / 60
        self.out = _random(HIDDEN, HEADS * HEAD_DIM) / 60
        self.up = _random(2 * INNER, HIDDEN) / 60
        self.down = _random(HIDDEN, INNER) / 140
        self.x = _random(TOKENS, HIDDEN)
        self.keys = _random(1, KV_HEADS, PAST + TOKENS, HEAD_DIM)
        self.values = _random(1, KV_HEADS, PAST + TOKENS, HEAD_DIM)
        self.mask = causal_lower_right(TOKENS, PAST + TOKENS)

    def attention(self, queries):
        q = queries.view(1, TOKENS, HEADS, HEAD_DIM).transpose(1, 2)
        return F.scaled_dot_product_attention(q, self.keys, self.values, self.mask,
                                              enable_gqa=True)

    def run(self):
        q = F.linear(self.x, self.qkv)[:, :HEADS * HEAD_DIM].contiguous()
        y = F.linear(self.attention(q).transpose(1, 2).reshape(TOKENS, -1), self.out)
        gate, up = F.linear(y, self.up).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down)


def bench_score(driver, time_ms):
    layer = Layer()
    queries = _random(TOKENS, HEADS, HEAD_DIM)
    cached = layer.keys[0]
    scores = torch.zeros(KV_HEADS, CHUNK, device=DEVICE)
    log_sums = torch.zeros(HEADS, TOKENS, device=DEVICE)
    # The pass's own keys lie in the dense cache behind the past.
    case = {'queries': queries, 'cached': cached, 'own': cached[:, PAST:], 'prefix': PREFIX,
            'chunk': (PREFIX + 20000, CHUNK)}
    attention = time_ms(lambda: layer.attention(queries), 10)
    whole = time_ms(layer.run, 10)
    keys = PAST + TOKENS / 2
    print(f'prefill T={TOKENS} at past {PAST}: attention {attention:.3f} ms '
          f'({4 * TOKENS * keys * HEADS * HEAD_DIM / attention / 1e9:.0f} TFLOP/s), '
          f'layer {whole:.3f} ms')
    for splits in (1, 2, 4):
        t = time_ms(lambda: score(driver, case, scores, splits=splits,
                                  log_sums=log_sums), 20)
        parts = [time_ms(lambda: _one_pass(driver, case, scores, splits, i), 20) for i in (0, 1)]
        flops = [2 * TOKENS * n * HEADS * HEAD_DIM
                 for n in (PREFIX + CHUNK + TOKENS / 2, CHUNK)]
        rates = [f / p / 1e9 for f, p in zip(flops, parts)]
        print(f'score, {splits} splits: {t:.3f} ms (rows {parts[0]:.3f} ms, {rates[0]:.0f} TFLOP/s;'
              f' keys {parts[1]:.3f} ms, {rates[1]:.0f} TFLOP/s): {t / attention:.2f} of the '
              f'attention, {t / whole:.2f} of the layer', flush=True)


def _one_pass(driver, case, scores, splits, which):
    """One of score's two kernels alone; what it reads is whatever lies there."""
    log_sums = torch.zeros(HEADS, TOKENS, device=DEVICE)
    head = PAST + TOKENS
    strides = [Long(HEADS * HEAD_DIM), Long(head * HEAD_DIM)]
    shape = [TOKENS, HEADS, KV_HEADS]
    start, length = case['chunk']
    scale = math.log2(math.e) / math.sqrt(HEAD_DIM)
    if which == 0:
        driver.launch('score_rows_f16_d128', (TOKENS // 128, HEADS), 128,
                      [case['queries'], case['cached'], case['own'], log_sums, *strides,
                       Long(head * HEAD_DIM), *shape, PREFIX, start, length, 0, scale], 49152)
    else:
        driver.launch('score_keys_f16_d128', (-(-length // 128), HEADS, splits), 128,
                      [case['queries'], case['cached'], log_sums, scores, *strides,
                       Long(CHUNK), *shape, start, length, scale], 49152)
