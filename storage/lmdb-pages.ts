import { fstatSync, readSync } from 'node:fs';

/** Bytes of an LMDB page; all figures in FORMAT.md are for this size. */
export const pageBytes = 4096;

/**
 * Whether a data file ends before the pages that its newest state needs. LMDB does not look: it
 * maps the file, and touching what is not there ends the process by SIGBUS. Reads two pages, as a
 * rule; where the file is shorter than LMDB has ever used it (free pages at its end need not be
 * written), all tree pages.
 */
export function isCutOff(file: number): boolean {
  for (let attempt = 1; ; attempt++) {
    const state = newestState(file);
    const pages = Math.floor(fstatSync(file).size / pageBytes);
    if (state.lastPage < pages || !needsPagesFrom(pages, file, state.roots)) return false;
    // Another process may have gone on meanwhile, and used the pages of this state again.
    if (newestState(file).transaction === state.transaction || attempt === maxAttempts) return true;
  }
}

const maxAttempts = 5;

/** What a meta page says; page numbers. */
interface State {
  readonly transaction: number;
  readonly lastPage: number;
  readonly roots: readonly number[];
}

/** Of lmdb-js's LMDB: offsets in a meta page, and in the description of a tree. */
const meta = { freeTree: 48, mainTree: 96, lastPage: 144, transaction: 152 } as const;
const treeRoot = 40;

/** Root of a tree without pages: all bits set, more than a page number can be. */
const noPage = Number(2n ** 64n - 1n);

function newestState(file: number): State {
  const [first, second] = [stateOf(readPage(file, 0)), stateOf(readPage(file, 1))];
  return first.transaction > second.transaction ? first : second;
}

function stateOf(page: Buffer): State {
  return {
    transaction: readNumber(page, meta.transaction),
    lastPage: readNumber(page, meta.lastPage),
    roots: [meta.freeTree, meta.mainTree].map((tree) => readNumber(page, tree + treeRoot)),
  };
}

/** Whether some tree (those of tables, whose roots are in the main one, included) needs a page. */
function needsPagesFrom(pages: number, file: number, roots: readonly number[]): boolean {
  const waiting = [...roots];
  const seen = new Set<number>();
  for (let number = waiting.pop(); number !== undefined; number = waiting.pop()) {
    if (number === noPage || seen.has(number)) continue;
    if (number >= pages) return true;
    seen.add(number);
    const { trees, lastPage } = referencesOf(readPage(file, number));
    if (lastPage >= pages) return true;
    waiting.push(...trees);
  }
  return false;
}

interface References {
  /** Tree pages. */
  readonly trees: readonly number[];
  /** The last page of large values; -1: there are none. */
  readonly lastPage: number;
}

const pageFlags = { offset: 18, branch: 1, leaf: 2 } as const;
/** Where the free space of a page begins, which is where its list of nodes ends. */
const nodesEnd = 20;
const pageHeaderBytes = 24;
const nodeHeaderBytes = 8;
const nodeFlags = { offset: 4, largeValue: 1, tree: 2 } as const;

/** What a tree page points to. A page that is no tree page points to nothing. */
function referencesOf(page: Buffer): References {
  const flags = page.readUInt16LE(pageFlags.offset);
  const trees: number[] = [];
  let lastPage = -1;
  if ((flags & (pageFlags.branch | pageFlags.leaf)) === 0) return { trees, lastPage };
  for (const node of nodesOf(page)) {
    if ((flags & pageFlags.branch) !== 0) {
      trees.push(node.readUIntLE(0, 6));
      continue;
    }
    const kind = node.readUInt16LE(nodeFlags.offset);
    const content = node.subarray(nodeHeaderBytes + node.readUInt16LE(6));
    if ((kind & nodeFlags.tree) !== 0) trees.push(readNumber(content, treeRoot));
    if ((kind & nodeFlags.largeValue) !== 0) {
      lastPage = Math.max(lastPage, readNumber(content, 0) + readNumber(content, 16) - 1);
    }
  }
  return { trees, lastPage };
}

/** The nodes of a page, each to the page's end; none where they cannot be. */
function* nodesOf(page: Buffer): Generator<Buffer> {
  const count = page.readUInt16LE(nodesEnd) / 2;
  for (let i = 0; i < count && pageHeaderBytes + 2 * i < pageBytes; i++) {
    const start = pageHeaderBytes + page.readUInt16LE(pageHeaderBytes + 2 * i);
    if (start + nodeHeaderBytes <= pageBytes) yield page.subarray(start);
  }
}

/** A u64; 0 where the page ends before it. */
function readNumber(bytes: Buffer, offset: number): number {
  return offset + 8 <= bytes.byteLength ? Number(bytes.readBigUInt64LE(offset)) : 0;
}

function readPage(file: number, number: number): Buffer {
  const page = Buffer.alloc(pageBytes);
  readSync(file, page, 0, pageBytes, number * pageBytes);
  return page;
}
