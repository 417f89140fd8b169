import type { Output } from './command.ts';

const frames = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const frameMs = 100;

/** Runs `work` under a line that moves on a terminal and is printed once elsewhere. */
export async function withSpinner<T>(
  output: Output,
  text: string,
  work: () => Promise<T>,
): Promise<T> {
  if (!output.interactive) {
    output.err(`${text} …\n`);
    return work();
  }
  let frame = 0;
  const timer = setInterval(() => {
    output.err(`\r${frames[frame % frames.length]} ${text}`);
    frame++;
  }, frameMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    output.err(`\r${' '.repeat(text.length + 2)}\r`);
  }
}
