import { assert } from '../../core/assert.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import type { CudaContextView, HeadBlocks } from './context-cache.ts';
import type { CudaTail } from './tail.ts';

/** A slot of a forward call, as far as attention goes. */
export interface UnitSlot {
  readonly context: CudaContextView;
  readonly tail: CudaTail;
  readonly ids: Int32Array;
}

/** What is read together in a layer: a context's rows, or a tail's, by some queries. */
export interface Unit {
  /** What tells one table from another; the number keeps several units of one call apart. */
  readonly key: { readonly owner: object; readonly number: number };
  readonly blocks: HeadBlocks;
  /** Rows of each head, `[layers · kvHeads]`; one number for all of a tail's. */
  readonly lengths: Uint32Array | number;
  readonly firstQuery: number;
  readonly queries: number;
  readonly isCausal: boolean;
}

/** Who attends to what in a call. A query is a token. */
export interface UnitPlan {
  readonly units: readonly Unit[];
  /** Tokens, `[slot][first, end)`, in the order of `slots`. */
  readonly tokens: readonly (readonly [first: number, end: number])[];
  /** By token: the units it attends to; where its pair goes, counted back from the tail's end. */
  readonly ofToken: readonly {
    readonly context: number;
    readonly tail: number;
    readonly rowFromEnd: number;
  }[];
  /** The most rows, queries times group, of a unit. */
  readonly mostRows: number;
}

/** Most rows that the kernels take of a unit. */
export const mostUnitRows = 128;

/** Most queries of a unit: 0 if a group alone is too large. */
export function mostUnitQueries({ group }: KvLayout): number {
  return Math.floor(mostUnitRows / group);
}

/**
 * Deals tokens to units: those of slots on one context stand together, so that its rows are read
 * once for all of them, as far as a unit has room.
 */
export function planUnits(slots: readonly UnitSlot[], layout: KvLayout): UnitPlan {
  const { group } = layout;
  const mostQueries = mostUnitQueries(layout);
  assert(mostQueries > 0, `a group of ${group} query heads has room`);
  const units: Unit[] = [];
  const tokens: (readonly [number, number])[] = slots.map(() => [0, 0]);
  const ofToken: { context: number; tail: number; rowFromEnd: number }[] = [];
  for (const together of byContext(slots)) {
    const first = ofToken.length;
    for (const [index, slot] of together) {
      const start = ofToken.length;
      tokens[index] = [start, start + slot.ids.length];
      addTail(slot, { units, ofToken, mostQueries });
    }
    const [only] = together;
    assert(only !== undefined, 'a context has slots');
    addContext(only[1].context, { first, units, ofToken, mostQueries });
  }
  const mostRows = Math.max(...units.map(({ queries }) => queries * group));
  return { units, tokens, ofToken, mostRows };
}

interface Building {
  readonly units: Unit[];
  readonly ofToken: { context: number; tail: number; rowFromEnd: number }[];
  readonly mostQueries: number;
}

/** A token sees its tail up to itself: each unit has the rows up to its last token. */
function addTail({ tail, ids }: UnitSlot, { units, ofToken, mostQueries }: Building): void {
  const firstToken = ofToken.length;
  for (let start = 0; start < ids.length; start += mostQueries) {
    const end = Math.min(start + mostQueries, ids.length);
    for (let token = start; token < end; token++) {
      ofToken.push({ context: -1, tail: units.length, rowFromEnd: end - token });
    }
    units.push({
      key: { owner: tail, number: start / mostQueries },
      blocks: tail.blocks,
      lengths: tail.length + end,
      firstQuery: firstToken + start,
      queries: end - start,
      isCausal: true,
    });
  }
}

function addContext(
  view: CudaContextView,
  { first, units, ofToken, mostQueries }: Building & { readonly first: number },
): void {
  const last = ofToken.length;
  for (let start = first; start < last; start += mostQueries) {
    const end = Math.min(start + mostQueries, last);
    for (const token of ofToken.slice(start, end)) token.context = units.length;
    units.push({
      key: { owner: view, number: (start - first) / mostQueries },
      blocks: view.cache.blocks,
      lengths: view.lengths,
      firstQuery: start,
      queries: end - start,
      isCausal: false,
    });
  }
}

/** Slots with their places in the call, those on one view together. */
function byContext(
  slots: readonly UnitSlot[],
): Iterable<readonly (readonly [index: number, slot: UnitSlot])[]> {
  const groups = new Map<CudaContextView, (readonly [number, UnitSlot])[]>();
  for (const [index, slot] of slots.entries()) {
    const group = groups.get(slot.context);
    if (group === undefined) groups.set(slot.context, [[index, slot]]);
    else group.push([index, slot]);
  }
  return groups.values();
}
