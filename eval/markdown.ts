import { assert } from '../src/core/assert.ts';

export interface Table {
  readonly title: string;
  readonly headers: readonly string[];
  /** As many cells as headers. */
  readonly rows: readonly (readonly string[])[];
}

/** A table as GitHub-flavoured markdown under a bold title; `|` in cells is escaped. */
export function markdownTable({ title, headers, rows }: Table): string {
  for (const row of rows) {
    assert(row.length === headers.length, `expected ${headers.length} cells but got ${row.length}`);
  }
  const lines = [headers, headers.map(() => '---'), ...rows].map(
    (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`,
  );
  return `**${title}**\n\n${lines.join('\n')}\n`;
}
