import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';
import {
  entryCounts,
  killHard,
  noEntries,
  openStore,
  openTables,
  storeFolder,
  writeInChild,
} from '../support/storage-harness.ts';
import { createFaultWorkspace, killNow, startVictim } from './fault-server.ts';
import { scanStore } from './store-scan.ts';

const writer = fileURLToPath(new URL('../support/storage-writer.ts', import.meta.url));

/** A writer that stalls half-way, a child of a process that never asks how its children ended. */
async function stalledWriter(folder: string): Promise<number> {
  const command = '"$@" & echo "pid $!"; exec sleep 60';
  const parent = spawn(
    'sh',
    ['-c', command, 'sh', process.execPath, '--import', 'tsx', writer, folder, '1', 'segments'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  onTestFinished(() => void parent.kill('SIGKILL'));
  let output = '';
  for await (const text of parent.stdout.setEncoding('utf8')) {
    output += String(text);
    const pid = /pid (\d+)/.exec(output)?.[1];
    if (pid !== undefined && output.includes('stalled')) return Number(pid);
  }
  throw new Error(`Expected a writer that stalls but got: ${output}`);
}

it('a writer that was killed is dead although its parent has not taken notice', async () => {
  const folder = storeFolder();
  const pid = await stalledWriter(folder);
  onTestFinished(() => void process.kill(pid, 'SIGKILL'));
  process.kill(pid, 'SIGKILL');
  await expect.poll(() => readFileSync(`/proc/${pid}/stat`, 'utf8')).toMatch(/\) Z /);
  const store = await openStore({ folder });
  expect(await store.sweep()).toBe(1);
  expect(entryCounts(openTables(folder))).toEqual(noEntries);
});

it('an engine that starts again sweeps up what dead processes left, though its server lives', async () => {
  const workspace = createFaultWorkspace();
  const victim = await startVictim(workspace);
  onTestFinished(async () => {
    await victim.server.stop();
    workspace.remove();
  });
  await killHard(await writeInChild(workspace.data, 1, 'segments'));
  expect((await scanStore(workspace.data)).unfinished).toHaveLength(1);
  killNow(victim, 'engine');
  await expect.poll(() => victim.server.stderr()).toContain('engine process ended');
  await victim.server.client.waitReady();
  expect(await scanStore(workspace.data)).toMatchObject({ orphans: [], unfinished: [] });
});
