import type { Progress } from '../client/types.ts';
import type { Output } from './command.ts';

const barWidth = 30;
const labels = { prefill: 'reading', score: 'scoring', persist: 'storing' } as const;

/** Shows how far an ingestion is. */
export interface ProgressBar {
  readonly update: (progress: Progress) => void;
  /** Ends the bar's line; more updates must not follow. */
  readonly close: () => void;
}

/** A bar on a terminal that is drawn over; elsewhere one line for each phase that ends. */
export function createProgressBar(output: Output): ProgressBar {
  let drawn = false;
  return {
    update: (progress) => {
      if (output.interactive) {
        output.err(`\r${renderProgress(progress)}`);
        drawn = true;
      } else if (progress.done === progress.total) {
        output.err(`${renderProgress(progress).trimEnd()}\n`);
      }
    },
    close: () => {
      if (drawn) output.err('\n');
      drawn = false;
    },
  };
}

/** One line of constant width, so that it covers the one before. */
export function renderProgress({ phase, done, total }: Progress): string {
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const filled = Math.round(share * barWidth);
  const bar = '█'.repeat(filled) + '░'.repeat(barWidth - filled);
  const percent = `${Math.floor(share * 100)}`.padStart(3);
  return `${labels[phase].padEnd(8)} ${bar} ${percent} %  ${done}/${total}`.padEnd(72);
}
