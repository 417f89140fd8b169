import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import { Made } from '../../core/made.ts';
import { Arena, Layout, type Region } from './arena.ts';
import type { PinnedMemory } from './device.ts';
import type { Gpu } from './gpu.ts';
import type { UnitPlan } from './units.ts';

/** What a call computes, by token; padding is passed over. */
export interface QueryTokens {
  readonly ids: readonly number[];
  readonly positions: readonly number[];
  /** The tokens whose logits are asked for. */
  readonly rows: readonly number[];
}

type Part = 'ids' | 'positions' | 'rows' | 'tokens' | 'queryUnits' | 'units' | 'lengths';

const intBytes = 4;
const longBytes = 8;

/**
 * What changes from call to call, in pinned memory and in one copy on the device, so that a graph
 * of a call can be replayed: int64 `ids`, `positions`, `rows`; int32 `tokens` `[T, 2]`,
 * `queryUnits` `[T, 2]`, `units` `[places, 4]`, `lengths` `[layers, places · kvHeads]`, as the
 * kernels take them.
 */
export class QueryInputs implements Closeable {
  readonly #gpu: Gpu;
  readonly #layout: KvLayout;
  readonly #mostTokens: number;
  readonly #places: number;
  readonly #regions: Readonly<Record<Part, Region>>;
  readonly #sizeBytes: number;
  readonly #arena: Arena;
  readonly #pinned: PinnedMemory;

  constructor(
    gpu: Gpu,
    layout: KvLayout,
    { mostTokens, places }: { readonly mostTokens: number; readonly places: number },
  ) {
    this.#gpu = gpu;
    this.#layout = layout;
    this.#mostTokens = mostTokens;
    this.#places = places;
    const memory = new Layout();
    const { layers, kvHeads } = layout;
    this.#regions = {
      ids: memory.add(mostTokens * longBytes),
      positions: memory.add(mostTokens * longBytes),
      rows: memory.add(mostTokens * longBytes),
      tokens: memory.add(mostTokens * 2 * intBytes),
      queryUnits: memory.add(mostTokens * 2 * intBytes),
      units: memory.add(places * 4 * intBytes),
      lengths: memory.add(layers * places * kvHeads * intBytes),
    };
    this.#sizeBytes = memory.sizeBytes;
    const made = new Made();
    try {
      this.#arena = made.add(new Arena(gpu.device, memory));
      this.#pinned = made.add(gpu.device.pin(memory.sizeBytes));
    } catch (error) {
      made.abandon();
      throw error;
    }
  }

  address(part: Part): bigint {
    return this.#arena.address(this.#regions[part]);
  }

  /**
   * Puts a call's inputs on the device.
   * @param padded tokens of the call, those that are passed over included
   * @param places of the plan's units in the tables
   */
  fill(
    padded: number,
    { ids, positions, rows }: QueryTokens,
    { plan, places }: { readonly plan: UnitPlan; readonly places: readonly number[] },
  ): void {
    assert(padded <= this.#mostTokens && ids.length <= padded, 'the tokens fit');
    const longs = [
      [this.#longs('ids'), ids],
      [this.#longs('positions'), positions],
      [this.#longs('rows'), rows],
    ] as const;
    for (const [target, values] of longs) {
      for (let i = 0; i < padded; i++) target[i] = BigInt(values[i] ?? 0);
    }
    const [tokens, queryUnits] = [this.#ints('tokens'), this.#ints('queryUnits')];
    tokens.fill(-1, 0, 2 * padded);
    queryUnits.fill(-1, 0, 2 * padded);
    for (const [token, { context, tail, rowFromEnd }] of plan.ofToken.entries()) {
      const [contextPlace, tailPlace] = [places[context] as number, places[tail] as number];
      tokens[2 * token] = tailPlace;
      tokens[2 * token + 1] = rowFromEnd;
      queryUnits[2 * token] = contextPlace;
      queryUnits[2 * token + 1] = tailPlace;
    }
    this.#fillUnits({ plan, places });
    this.#gpu.stream.copyToDevice(
      this.address('ids'),
      this.#pinned.part({ offsetBytes: 0, sizeBytes: this.#sizeBytes }),
    );
  }

  close(): void {
    this.#arena.close();
    this.#pinned.close();
  }

  #fillUnits({ plan, places }: { plan: UnitPlan; places: readonly number[] }): void {
    const [units, lengths] = [this.#ints('units'), this.#ints('lengths')];
    units.fill(0);
    lengths.fill(0);
    const { layers, kvHeads } = this.#layout;
    const sequences = this.#places * kvHeads;
    for (const [i, unit] of plan.units.entries()) {
      const place = places[i] as number;
      units.set([unit.firstQuery, unit.queries, unit.isCausal ? 1 : 0, 0], 4 * place);
      for (let layer = 0; layer < layers; layer++) {
        const at = layer * sequences + place * kvHeads;
        if (typeof unit.lengths === 'number') {
          lengths.fill(unit.lengths, at, at + kvHeads);
        } else {
          lengths.set(unit.lengths.subarray(layer * kvHeads, (layer + 1) * kvHeads), at);
        }
      }
    }
  }

  #ints(part: Part): Int32Array {
    const { offsetBytes, sizeBytes } = this.#regions[part];
    const { buffer, byteOffset } = this.#pinned.bytes;
    return new Int32Array(buffer, byteOffset + offsetBytes, sizeBytes / intBytes);
  }

  #longs(part: Part): BigInt64Array {
    const { offsetBytes, sizeBytes } = this.#regions[part];
    const { buffer, byteOffset } = this.#pinned.bytes;
    return new BigInt64Array(buffer, byteOffset + offsetBytes, sizeBytes / longBytes);
  }
}
