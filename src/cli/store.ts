import { loadConfig } from '../config/load-config.ts';
import type { Config } from '../config/schema.ts';
import { ReadonceError } from '../core/errors.ts';
import { compactStore, type Compaction } from '../../storage/compact.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { holdsStore } from '../../storage/lmdb-file.ts';
import { openContextStore } from '../../storage/open-store.ts';
import { defineCliCommand, UsageError, type CliCommand, type Output } from './command.ts';
import { formatBytes, formatCount, formatTable } from './format.ts';
import { asUsage, given, numberFlag } from './remote.ts';

const storeArgs = {
  data: { type: 'string', description: 'Folder of the store (READONCE_DATA)' },
  config: { type: 'string', description: 'JSON file of settings (READONCE_CONFIG)' },
  json: { type: 'boolean', description: 'Print JSON instead of text' },
} as const;

const millisecondsOfDay = 24 * 60 * 60 * 1000;

/**
 * `readonce store stats | verify | compact | gc`: works on the data folder itself, whether a server
 * has it open or not.
 */
export function storeCommand(output: Output): CliCommand {
  const subcommands = [
    statsCommand(output),
    verifyCommand(output),
    compactCommand(output),
    gcCommand(output),
  ];
  const find = (name: string | undefined) =>
    subcommands.find((candidate) => candidate.name === `store ${name}`);
  const names = subcommands.map(({ name }) => name.slice('store '.length)).join(', ');
  return {
    name: 'store',
    description: 'Look after the data folder: stats, verify, compact, gc',
    usage: async (rawArgs) => {
      const chosen = find(rawArgs[0]);
      if (chosen !== undefined) return chosen.usage([]);
      const lines = subcommands.map(({ name, description }) => [`  readonce ${name}`, description]);
      return `${formatTable(lines)}\n"readonce store COMMAND --help" explains a command.`;
    },
    run: async ([name, ...rest]) => {
      const chosen = find(name);
      if (chosen !== undefined) return chosen.run(rest);
      const got = name === undefined ? 'nothing' : JSON.stringify(name);
      throw new UsageError(`Expected a command of the store (${names}) but got ${got}.`);
    },
  };
}

function statsCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'store stats',
    description: 'What the store holds and takes on disk',
    args: storeArgs,
    run: async ({ args }) => {
      const { stats, inQuarantine } = await withStore(args, async (store) => ({
        stats: store.stats(),
        inQuarantine: store.listQuarantined(),
      }));
      if (args.json === true) {
        output.out(`${JSON.stringify({ ...stats, inQuarantine })}\n`);
        return;
      }
      const { quarantined } = stats;
      const rows = [
        ['contexts', formatCount(stats.contexts), formatBytes(stats.contextBytes)],
        ['damaged', formatCount(stats.damaged)],
        ['quarantined', formatCount(quarantined.contexts), formatBytes(quarantined.bytes)],
        ['unfinished', formatCount(stats.unfinished)],
        ['used pages', '', formatBytes(stats.usedBytes)],
        ['free pages', '', formatBytes(stats.freeBytes)],
        ['file', '', `${formatBytes(stats.fileBytes)}, ${stats.fragmentation.toFixed(2)} × used`],
      ];
      output.out(formatTable(rows));
      // Kept for whoever wants to know what happened, so they are named.
      output.out(formatTable(inQuarantine.map(({ id, reason }) => [id, reason])));
    },
  });
}

function verifyCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'store verify',
    description: 'Read everything and check it; status 1 if anything is damaged',
    args: {
      ...storeArgs,
      quarantine: { type: 'boolean', description: 'Move damaged contexts aside' },
    },
    run: async ({ args }) => {
      const quarantine = args.quarantine === true;
      let contexts = 0;
      const damaged: { readonly id: string; readonly reason: string }[] = [];
      await withStore(args, async (store) => {
        for await (const { id, fault } of store.verify({ quarantine })) {
          contexts++;
          if (fault !== undefined) damaged.push({ id, reason: fault.reason });
        }
      });
      if (args.json === true) {
        output.out(`${JSON.stringify({ contexts, damaged, quarantined: quarantine })}\n`);
      } else {
        output.out(formatTable(damaged.map(({ id, reason }) => [id, reason])));
        const intact = formatCount(contexts - damaged.length);
        output.out(`${intact} of ${formatCount(contexts)} contexts are intact\n`);
      }
      if (damaged.length > 0) throw damageFound(damaged.length, quarantine);
    },
  });
}

function damageFound(count: number, quarantine: boolean): ReadonceError {
  const advice = quarantine
    ? 'They were moved aside: put their documents again, and check the disk.'
    : 'Run it again with --quarantine to move them aside, and check the disk.';
  return new ReadonceError(
    'corrupt_record',
    `Expected every context to be intact but ${formatCount(count)} are damaged. ${advice}`,
  );
}

function compactCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'store compact',
    description: 'Give free pages back to the disk, while nobody uses the store',
    args: {
      ...storeArgs,
      to: {
        type: 'string',
        description: 'Write a compacted copy there instead, whoever uses the store',
        valueHint: 'folder',
      },
    },
    run: async ({ args }) => {
      const compaction =
        args.to === undefined
          ? await compactStore(storeConfig(args).data)
          : await compactCopy(args, args.to);
      if (args.json === true) {
        output.out(`${JSON.stringify(compaction)}\n`);
        return;
      }
      const { bytesBefore, bytesAfter } = compaction;
      output.out(`${formatBytes(bytesBefore)} became ${formatBytes(bytesAfter)}\n`);
    },
  });
}

async function compactCopy(args: StoreArgs, folder: string): Promise<Compaction> {
  const fileBytes = async (store: ContextStore): Promise<number> => store.stats().fileBytes;
  const bytesBefore = await withStore(args, async (store) => {
    await store.compactTo(folder);
    return fileBytes(store);
  });
  return { bytesBefore, bytesAfter: await withStore({ ...args, data: folder }, fileBytes) };
}

function gcCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'store gc',
    description: 'Remove what nobody needs: leftovers, long expired and long quarantined contexts',
    args: {
      ...storeArgs,
      'quarantine-days': {
        type: 'string',
        description: 'Remove contexts that were quarantined longer ago (30); 0: all',
        valueHint: 'days',
      },
    },
    run: async ({ args }) => {
      const days = numberFlag('quarantine-days', args['quarantine-days']);
      if (days !== undefined && days < 0) {
        throw new UsageError(`Expected --quarantine-days to be 0 or more but got ${days}.`);
      }
      const quarantineMs = days === undefined ? undefined : days * millisecondsOfDay;
      const collected = await withStore(args, (store) => store.gc(given({ quarantineMs })));
      if (args.json === true) {
        output.out(`${JSON.stringify(collected)}\n`);
        return;
      }
      const rows = [
        ['unfinished', formatCount(collected.unfinished)],
        ['expired', formatCount(collected.expired)],
        ['quarantined', formatCount(collected.quarantined)],
        ['stray pieces', formatCount(collected.stray)],
      ];
      output.out(formatTable(rows));
    },
  });
}

interface StoreArgs {
  readonly data?: string | undefined;
  readonly config?: string | undefined;
}

/** @throws UsageError for a wrong configuration */
function storeConfig({ data, config: file }: StoreArgs): Config {
  return asUsage(() => loadConfig({ flags: given({ data }), file })).config;
}

/**
 * Opens the store, runs `work`, closes it.
 * @throws ReadonceError `not_found` when the folder has no store: none is made
 */
async function withStore<T>(
  args: StoreArgs,
  work: (store: ContextStore) => Promise<T>,
): Promise<T> {
  const { data: folder, storeMaxBytes: maxBytes } = storeConfig(args);
  if (!holdsStore(folder)) {
    throw new ReadonceError(
      'not_found',
      `Expected a store in ${folder} but there is none. Name its folder with --data.`,
    );
  }
  const store = await openContextStore({ folder, maxBytes });
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}
