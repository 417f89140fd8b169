import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { loadConfig } from '../src/config/load-config.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { checksTable } from './check.ts';
import { loadDocuments } from './datasets.ts';
import { describeMachine, machineLine } from './machine.ts';
import { markdownTable } from './markdown.ts';
import { parseBenchOptions, type BenchOptions, type PartName } from './options.ts';
import type { Part, PartReport, PartSetup } from './part.ts';
import { batching } from './parts/batching.ts';
import { devices } from './parts/devices.ts';
import { quality } from './parts/quality.ts';
import { reconstruction } from './parts/reconstruction.ts';
import { size } from './parts/size.ts';
import { speed } from './parts/speed.ts';

/** `npm run bench`: markdown on stdout, progress on stderr, the figures in a JSON file. */

const parts: Readonly<Record<PartName, Part>> = {
  quality,
  reconstruction,
  size,
  speed,
  batching,
  devices,
};

async function bench(options: BenchOptions): Promise<void> {
  const machine = describeMachine();
  const { quick, out } = options;
  const setup: PartSetup = {
    quick,
    documents: options.documents === undefined ? undefined : loadDocuments(options.documents),
    cacheFolder: loadConfig().config.cache,
    progress: (text) => process.stderr.write(`${text}\n`),
  };
  console.log(`${machineLine(machine)}${quick ? '; a quick run, not judged' : ''}\n`);
  const reports: Partial<Record<PartName, PartReport>> = {};
  for (const name of options.parts) {
    const report = await parts[name](setup);
    console.log(reportText(report));
    reports[name] = report;
    // Written after every part: a long run that is cut short leaves what it measured.
    mkdirSync(dirname(out), { recursive: true });
    writeFileSync(out, `${JSON.stringify({ machine, quick, parts: reports }, undefined, 1)}\n`);
  }
  setup.progress(`Written to ${out}`);
}

function reportText({ title, explanation, tables, checks }: PartReport): string {
  const all = checks.length === 0 ? tables : [...tables, checksTable(checks)];
  return [`## ${title}\n`, `${explanation}\n`, ...all.map(markdownTable)].join('\n');
}

try {
  await bench(parseBenchOptions(process.argv.slice(2), process.env));
} catch (error) {
  if (!(error instanceof ReadonceError)) throw error;
  process.stderr.write(`bench: ${error.message}\n`);
  process.exitCode = 1;
}
