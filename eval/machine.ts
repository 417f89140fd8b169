import { cpus, totalmem } from 'node:os';
import { formatBytes } from '../src/cli/format.ts';

/** What figures were measured on. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** For example `linux x64`. */
  readonly platform: string;
  readonly node: string;
  /** RFC 3339, UTC. */
  readonly date: string;
}

/** This machine, now. */
export function describeMachine(): Machine {
  const cores = cpus();
  return {
    cpu: cores[0]?.model.trim() ?? 'unknown',
    cores: cores.length,
    memoryBytes: totalmem(),
    platform: `${process.platform} ${process.arch}`,
    node: process.version,
    date: new Date().toISOString(),
  };
}

/** One line for people. */
export function machineLine(machine: Machine): string {
  const { cpu, cores, memoryBytes, platform, node, date } = machine;
  return (
    `${cpu}, ${cores} cores, ${formatBytes(memoryBytes)} of memory, ${platform}, ` +
    `Node ${node}, ${date.slice(0, 10)}`
  );
}
