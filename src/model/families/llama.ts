import { defined } from '../../core/assert.ts';
import type { ModelConfig } from '../config.ts';
import type { ModelFamily } from './family.ts';

/** Hugging Face module of a layer → GGUF name. */
const layerModules: ReadonlyMap<string, string> = new Map([
  ['input_layernorm', 'attn_norm'],
  ['self_attn.q_proj', 'attn_q'],
  ['self_attn.k_proj', 'attn_k'],
  ['self_attn.v_proj', 'attn_v'],
  ['self_attn.o_proj', 'attn_output'],
  ['post_attention_layernorm', 'ffn_norm'],
  ['mlp.gate_proj', 'ffn_gate'],
  ['mlp.up_proj', 'ffn_up'],
  ['mlp.down_proj', 'ffn_down'],
]);

const topModules: ReadonlyMap<string, string> = new Map([
  ['model.embed_tokens', 'token_embd'],
  ['model.norm', 'output_norm'],
  ['lm_head', 'output'],
]);

/** `module.weight` or `module.bias` → `[module, kind]`. */
function splitKind(name: string): readonly [string, string] {
  const dot = name.lastIndexOf('.');
  return [name.slice(0, dot), name.slice(dot + 1)];
}

function addLinear(
  shapes: Map<string, readonly number[]>,
  module: string,
  shape: readonly [outputs: number, inputs: number],
  bias: boolean,
): void {
  shapes.set(`${module}.weight`, shape);
  if (bias) shapes.set(`${module}.bias`, [shape[0]]);
}

function tensorShapes(config: ModelConfig): ReadonlyMap<string, readonly number[]> {
  const { hiddenSize, feedForwardSize, attentionBias, feedForwardBias } = config;
  const queryWidth = config.queryHeads * config.headDim;
  const kvWidth = config.kvHeads * config.headDim;
  const shapes = new Map<string, readonly number[]>();
  shapes.set('model.embed_tokens.weight', [config.vocabSize, hiddenSize]);
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `model.layers.${layer}`;
    shapes.set(`${at}.input_layernorm.weight`, [hiddenSize]);
    addLinear(shapes, `${at}.self_attn.q_proj`, [queryWidth, hiddenSize], attentionBias);
    addLinear(shapes, `${at}.self_attn.k_proj`, [kvWidth, hiddenSize], attentionBias);
    addLinear(shapes, `${at}.self_attn.v_proj`, [kvWidth, hiddenSize], attentionBias);
    addLinear(shapes, `${at}.self_attn.o_proj`, [hiddenSize, queryWidth], attentionBias);
    shapes.set(`${at}.post_attention_layernorm.weight`, [hiddenSize]);
    addLinear(shapes, `${at}.mlp.gate_proj`, [feedForwardSize, hiddenSize], feedForwardBias);
    addLinear(shapes, `${at}.mlp.up_proj`, [feedForwardSize, hiddenSize], feedForwardBias);
    addLinear(shapes, `${at}.mlp.down_proj`, [hiddenSize, feedForwardSize], feedForwardBias);
  }
  shapes.set('model.norm.weight', [hiddenSize]);
  if (!config.tiedHead) shapes.set('lm_head.weight', [config.vocabSize, hiddenSize]);
  return shapes;
}

function ggufName(name: string): string {
  const [module, kind] = splitKind(name);
  const layer = /^model\.layers\.(\d+)\.(.+)$/.exec(module);
  const translated =
    layer === null ? topModules.get(module) : layerModules.get(defined(layer[2], 'module'));
  const prefix = layer === null ? '' : `blk.${defined(layer[1], 'layer')}.`;
  return `${prefix}${defined(translated, `the GGUF name of ${name}`)}.${kind}`;
}

/** Llama 1 to 3, and what shares its layout (SmolLM, TinyLlama and others). */
export const llama: ModelFamily = {
  name: 'llama',
  architectures: ['LlamaForCausalLM'],
  ggufArchitectures: ['llama'],
  tensorShapes,
  isRedundant(name, config) {
    // Old checkpoints carry the rotary frequencies, which follow from the config.
    if (name.endsWith('.rotary_emb.inv_freq')) return true;
    return config.tiedHead && name === 'lm_head.weight';
  },
  ggufName,
  ggufInterleavedHeads(name, config) {
    const [module] = splitKind(name);
    if (module.endsWith('.q_proj')) return config.queryHeads;
    return module.endsWith('.k_proj') ? config.kvHeads : undefined;
  },
};
