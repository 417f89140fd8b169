#!/usr/bin/env python3
"""KVzip as kvpress has it, on the GPU at hand: what stands beside bench-runtime.js.

usage: python3 test/gpu/bench_kvpress.py speed --wheel WHEEL [--model qwen|llama] [--layers N]
                                               [--tokens N] [--out FILE]
       python3 test/gpu/bench_kvpress.py scores --wheel WHEEL --folder FOLDER

speed: a document read (prefill; scoring and eviction) and decode steps on it, of transformers'
Llama with random float16 weights in the shape of the model. JSON on stdout, progress on stderr.
scores: a model of two layers with random weights, and kvpress's scores of a document on it, for
`node dist/test/gpu/bench-runtime.js --peer FOLDER`.

Needs PyTorch with CUDA, transformers 5 and the wheel of kvpress; no tokenizer and no network."""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
import zipfile

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

DEVICE = 'cuda'
# As test/gpu/bench/shapes.ts has them.
SHAPES = {
    'qwen': {'hidden': 3584, 'layers': 28, 'heads': 28, 'kv_heads': 4, 'inner': 18944,
             'vocab': 152064, 'theta': 1e6},
    'llama': {'hidden': 4096, 'layers': 32, 'heads': 32, 'kv_heads': 8, 'inner': 14336,
              'vocab': 128256, 'theta': 5e5},
}
SMALL = {'hidden': 3584, 'layers': 2, 'heads': 28, 'kv_heads': 4, 'inner': 4096, 'vocab': 4096,
         'theta': 1e4}
HEAD_DIM, EPSILON, WINDOW = 128, 1e-6, 35840
REMOVED, SINKS = 0.7, 4
SMALL_TOKENS, SMALL_CHUNK, SMALL_WINDOW = 3000, 1500, 8192
# Attention that is far from uniform, and far from a single key.
SMALL_DEVIATION = 0.03


def progress(text):
    print(f'[{time.monotonic() - START:6.1f} s] {text}', file=sys.stderr, flush=True)


class NoTokenizer:
    """Texts become ids that mean nothing; there is no chat template."""
    chat_template = None

    @classmethod
    def from_pretrained(cls, *_, **__):
        return cls()

    def encode(self, text, **_):
        ids = [1 + byte * 7 % 997 for byte in text.encode()[::4]]
        return torch.tensor([ids], dtype=torch.long)


def load_kvpress(wheel):
    """The wheel without its lists of imports, some of which are not installed."""
    folder = tempfile.mkdtemp(prefix='kvpress-')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for package in ('kvpress', os.path.join('kvpress', 'presses')):
        with open(os.path.join(folder, package, '__init__.py'), 'w', encoding='utf-8'):
            pass
    sys.path.insert(0, folder)
    from kvpress.attention_patch import patch_attention_functions
    from kvpress.presses import kvzip_press
    kvzip_press.AutoTokenizer = NoTokenizer
    # What hides evicted pairs from attention.
    patch_attention_functions()
    return kvzip_press.KVzipPress


def make_model(shape, dtype, window, deviation=0.02):
    config = LlamaConfig(
        vocab_size=shape['vocab'], hidden_size=shape['hidden'], intermediate_size=shape['inner'],
        num_hidden_layers=shape['layers'], num_attention_heads=shape['heads'],
        num_key_value_heads=shape['kv_heads'], head_dim=HEAD_DIM, rms_norm_eps=EPSILON,
        max_position_embeddings=window, tie_word_embeddings=False,
        rope_parameters={'rope_type': 'default', 'rope_theta': shape['theta']})
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation='sdpa')
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, deviation)
            else:
                parameter.fill_(1)
    return model.eval()


def random_ids(count, vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1000, vocab, (1, count), generator=generator).to(DEVICE)


def read(model, press, ids):
    """Seconds of the prefill, and of scoring and eviction; and the cache."""
    cache = DynamicCache()
    torch.cuda.synchronize()
    start = time.monotonic()
    with torch.no_grad(), press(model):
        model.model(input_ids=ids, past_key_values=cache)
        torch.cuda.synchronize()
        prefilled = time.monotonic()
    torch.cuda.synchronize()
    return prefilled - start, time.monotonic() - prefilled, cache


def step_ms(model, cache, warm=5, steps=20):
    """Milliseconds of a step of one request, the median."""
    ids = torch.full((1, 1), 7, device=DEVICE)
    times = []
    with torch.no_grad():
        for _ in range(warm + steps):
            torch.cuda.synchronize()
            start = time.monotonic()
            logits = model(input_ids=ids, past_key_values=cache).logits
            ids = logits[:, -1:].argmax(-1)
            torch.cuda.synchronize()
            times.append(1e3 * (time.monotonic() - start))
    return statistics.median(times[warm:])


def tried(work):
    """What the work gives, or what it failed with: other figures are worth having without it."""
    try:
        return work()
    except Exception as error:  # pylint: disable=broad-except
        traceback.print_exc()
        return f'failed: {error}'


def forget_evicted(model):
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None


def bench_speed(options, press_class):
    shape = dict(SHAPES[options.model])
    shape['layers'] = options.layers or shape['layers']
    model = make_model(shape, torch.float16, WINDOW)
    progress(f'model made, {torch.cuda.memory_allocated() / 1e9:.1f} GB')
    press = press_class(compression_ratio=REMOVED, chunk_size=2000)
    read(model, press, random_ids(4096, shape['vocab'], 2))
    forget_evicted(model)
    rounds, cache = [], None
    torch.cuda.reset_peak_memory_stats()
    for number in range(2):
        cache = None
        prefill, scoring, cache = read(
            model, press, random_ids(options.tokens, shape['vocab'], 3 + number))
        progress(f'{options.tokens} tokens: prefill {prefill:.2f} s, scoring {scoring:.2f} s')
        rounds.append({'prefillSeconds': prefill, 'scoreAndEvictSeconds': scoring})
        if number == 0:
            forget_evicted(model)
    peak = torch.cuda.max_memory_allocated()
    held = torch.cuda.memory_allocated()
    masked = tried(lambda: step_ms(model, cache, steps=10))
    progress(f'step on the evicted cache: {masked} ms')
    forget_evicted(model)
    full = tried(lambda: step_ms(model, cache))
    progress(f'step on the full cache: {full} ms')
    result = {
        'card': torch.cuda.get_device_name(0), 'torch': torch.__version__,
        'transformers': transformers.__version__, 'attention': 'sdpa', 'type': 'float16',
        'model': options.model, 'layers': shape['layers'], 'tokens': options.tokens,
        'keepRatio': round(1 - REMOVED, 3), 'reading': rounds,
        'stepOfEvictedMs': masked, 'stepOfFullMs': full,
        'peakBytes': peak, 'heldBytesWithCache': held,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        with open(options.out, 'w', encoding='utf-8') as file:
            file.write(text + '\n')


def caught(press_class):
    class Caught(press_class):
        """Keeps what it feeds the model and what it finds."""

        def prepare(self, *args, **kwargs):
            self.passes = super().prepare(*args, **kwargs)
            return self.passes

        def compress_post(self, model):
            self.found = self.score_val.float().cpu()
            super().compress_post(model)

    return Caught(compression_ratio=REMOVED, chunk_size=SMALL_CHUNK, n_sink=SINKS)


def write_scores(folder, name, press):
    layers, _, heads, tokens = press.found.shape
    scores = press.found.reshape(layers * heads, tokens).contiguous()
    file = f'scores-{name}.bin'
    scores.numpy().astype('<f4').tofile(os.path.join(folder, file))
    progress(f'{name}: scores {scores.min():.2e} to {scores.max():.2e}')
    return file


def make_scores(options, press_class):
    from safetensors.torch import save_file
    torch.backends.cuda.matmul.allow_tf32 = False
    os.makedirs(options.folder, exist_ok=True)
    ids = random_ids(SMALL_TOKENS, SMALL['vocab'], 5)
    half = make_model(SMALL, torch.float16, SMALL_WINDOW, SMALL_DEVIATION)
    in_half = caught(press_class)
    read(half, in_half, ids)
    single = make_model(SMALL, torch.float32, SMALL_WINDOW)
    single.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    in_single = caught(press_class)
    read(single, in_single, ids)
    weights = {name: value.cpu().contiguous() for name, value in single.state_dict().items()}
    save_file(weights, os.path.join(options.folder, 'model.safetensors'))
    passes, start = [], 0
    for chunk, fed in in_single.passes:
        end = start + chunk.shape[1]
        passes.append({'start': start, 'end': end, 'sinks': min(SINKS, start),
                       'ids': fed[0].tolist()})
        start = end
    peer = {
        'config': {
            'family': 'llama', 'vocabSize': SMALL['vocab'], 'hiddenSize': SMALL['hidden'],
            'layers': SMALL['layers'], 'queryHeads': SMALL['heads'],
            'kvHeads': SMALL['kv_heads'], 'headDim': HEAD_DIM, 'feedForwardSize': SMALL['inner'],
            'rmsEpsilon': EPSILON, 'contextLength': SMALL_WINDOW, 'ropeTheta': SMALL['theta'],
            'ropeScaling': None, 'tiedHead': False, 'attentionBias': False,
            'feedForwardBias': False, 'endTokenIds': [0],
        },
        'weights': 'model.safetensors', 'documentIds': ids[0].tolist(), 'passes': passes,
        'scores': {'float32': write_scores(options.folder, 'float32', in_single),
                   'float16': write_scores(options.folder, 'float16', in_half)},
    }
    with open(os.path.join(options.folder, 'peer.json'), 'w', encoding='utf-8') as file:
        json.dump(peer, file)
    progress(f'written to {options.folder}')


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest='command', required=True)
    speed = commands.add_parser('speed')
    speed.add_argument('--model', choices=list(SHAPES), default='qwen')
    speed.add_argument('--layers', type=int)
    speed.add_argument('--tokens', type=int, default=32768)
    speed.add_argument('--out')
    scores = commands.add_parser('scores')
    scores.add_argument('--folder', required=True)
    for each in (speed, scores):
        each.add_argument('--wheel', required=True)
    options = parser.parse_args()
    press_class = load_kvpress(options.wheel)
    work = bench_speed if options.command == 'speed' else make_scores
    work(options, press_class)


START = time.monotonic()
main()
