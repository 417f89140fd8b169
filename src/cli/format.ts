/** `1234567` → `1.2 MB`: decimal units, two significant digits and more. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

/** `1234.5` → `1.23 s`, `12.3` → `12 ms`, `0.4` → `0.4 ms`. */
export function formatMs(durationMs: number): string {
  if (durationMs >= 1000) return `${(durationMs / 1000).toFixed(2)} s`;
  return durationMs >= 10 ? `${durationMs.toFixed(0)} ms` : `${durationMs.toFixed(1)} ms`;
}

/** `1234567` → `1,234,567` */
export function formatCount(count: number): string {
  return count.toLocaleString('en-US');
}

/** `0.2998` → `30 %`, `0.123` → `12.3 %` */
export function formatShare(share: number): string {
  return `${Number((share * 100).toFixed(1))} %`;
}

/** Rows as columns of equal width, two spaces apart, a newline behind each row. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    }
  }
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}
