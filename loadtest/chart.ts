/** Charts as SVG, readable on light and on dark pages. */

/** A value as a bar. */
export interface Bar {
  readonly label: string;
  readonly value: number;
  /** The value as it is written. */
  readonly text: string;
}

/** Some values of one thing on one line, ascending, joined by a stroke. */
export interface Range {
  readonly label: string;
  readonly values: readonly number[];
  readonly text: string;
}

export interface Series {
  readonly name: string;
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

/** A part of a chart: its height in pixels, and its content from y = 0 down. */
export interface Panel {
  readonly height: number;
  readonly svg: string;
}

const width = 820;
const labelWidth = 230;
const textWidth = 190;
const plotWidth = width - labelWidth - textWidth;
const rowHeight = 22;
const titleHeight = 34;
const lineHeight = 180;
const axisHeight = 28;
const ticks = 4;

const style = `
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 14px; }
  .soft { fill: #59636e; }
  .page { fill: #ffffff; }
  .grid { stroke: #d1d9e0; }
  .a { fill: #0969da; } .line-a { stroke: #0969da; }
  .b { fill: #bc4c00; } .line-b { stroke: #bc4c00; }
  .c { fill: #8250df; }
  .line-a, .line-b { fill: none; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .soft { fill: #9198a1; }
    .page { fill: #0d1117; }
    .grid { stroke: #3d444d; }
    .a { fill: #4493f8; } .line-a { stroke: #4493f8; }
    .b { fill: #f0883e; } .line-b { stroke: #f0883e; }
    .c { fill: #ab7df8; }
  }`;

/** Panels one under another as an SVG document. */
export function svgDocument(title: string, panels: readonly Panel[]): string {
  let top = 0;
  const placed = panels.map(({ height, svg }) => {
    const group = `<g transform="translate(0 ${top})">${svg}</g>`;
    top += height;
    return group;
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top}" width="${width}" ` +
    `height="${top}" role="img"><title>${escapeXml(title)}</title><style>${style}\n</style>` +
    `<rect class="page" width="${width}" height="${top}"/>\n${placed.join('\n')}\n</svg>\n`
  );
}

/** Horizontal bars on a logarithmic scale, since what is compared differs by orders. */
export function barPanel(title: string, bars: readonly Bar[]): Panel {
  const shown = bars.filter(({ value }) => Number.isFinite(value) && value > 0);
  const place = logScale(shown.map(({ value }) => value));
  const rows = shown.map(
    ({ label, value, text }, i) =>
      `${rowLabel(label, i)}<rect class="a" x="${labelWidth}" y="${rowTop(i) + 4}" ` +
      `width="${fixed(place(value))}" height="${rowHeight - 8}" rx="2"/>` +
      rowText(text, labelWidth + place(value) + 8, i),
  );
  return panel(`${title} (logarithmic)`, rows);
}

/** Dots for each of a range's values, on a logarithmic scale. */
export function rangePanel(title: string, ranges: readonly Range[]): Panel {
  const shown = ranges.filter(({ values }) => values.every((value) => value > 0));
  const place = logScale(shown.flatMap(({ values }) => values));
  const rows = shown.map(({ label, values, text }, i) => {
    const y = rowTop(i) + rowHeight / 2;
    const xs = values.map((value) => fixed(labelWidth + place(value)));
    const dots = xs.map(
      (x, dot) => `<circle class="${['a', 'b', 'c'][dot % 3]}" cx="${x}" cy="${y}" r="4"/>`,
    );
    const stroke = `<line class="grid" x1="${xs[0]}" x2="${xs.at(-1)}" y1="${y}" y2="${y}"/>`;
    return `${rowLabel(label, i)}${stroke}${dots.join('')}${rowText(text, width - textWidth + 12, i)}`;
  });
  return panel(`${title} (logarithmic)`, rows);
}

/** Up to two series as lines over one axis from zero. */
export function linePanel(
  title: string,
  axes: {
    readonly series: readonly Series[];
    readonly formatX: (x: number) => string;
    readonly formatY: (y: number) => string;
  },
): Panel {
  const { series, formatX, formatY } = axes;
  const left = 80;
  const plot = width - left - 30;
  const points = series.flatMap((one) => one.points).filter(({ y }) => Number.isFinite(y));
  const maxX = Math.max(1, ...points.map(({ x }) => x));
  const maxY = Math.max(1, ...points.map(({ y }) => y)) * 1.1;
  const toX = (x: number): number => left + (x / maxX) * plot;
  const toY = (y: number): number => titleHeight + lineHeight * (1 - y / maxY);
  const grid = Array.from({ length: ticks + 1 }, (_, i) => {
    const y = fixed(toY((maxY * i) / ticks));
    const x = fixed(toX((maxX * i) / ticks));
    return (
      `<line class="grid" x1="${left}" x2="${left + plot}" y1="${y}" y2="${y}"/>` +
      `<text class="soft" x="${left - 8}" y="${y + 4}" text-anchor="end">` +
      `${escapeXml(formatY((maxY * i) / ticks))}</text>` +
      `<text class="soft" x="${x}" y="${titleHeight + lineHeight + 18}" text-anchor="middle">` +
      `${escapeXml(formatX((maxX * i) / ticks))}</text>`
    );
  });
  const lines = series.map(({ name, points }, i) => {
    const kind = i === 0 ? 'a' : 'b';
    const path = points
      .filter(({ y }) => Number.isFinite(y))
      .map(({ x, y }) => `${fixed(toX(x))},${fixed(toY(y))}`)
      .join(' ');
    return (
      `<polyline class="line-${kind}" points="${path}"/>` +
      `<text class="${kind}" x="${left + plot}" y="${22 + 14 * i}" text-anchor="end">` +
      `${escapeXml(name)}</text>`
    );
  });
  return {
    height: titleHeight + lineHeight + axisHeight + 8,
    svg: heading(title) + grid.join('') + lines.join(''),
  };
}

function panel(title: string, rows: readonly string[]): Panel {
  return {
    height: titleHeight + rows.length * rowHeight + 12,
    svg: heading(title) + rows.join('\n'),
  };
}

/** From a value to pixels: half a decade below the least is 0, the greatest the whole width. */
function logScale(values: readonly number[]): (value: number) => number {
  const low = Math.log10(Math.min(...values)) - 0.5;
  const high = Math.max(Math.log10(Math.max(...values)), low + 1);
  return (value) => ((Math.log10(value) - low) / (high - low)) * plotWidth;
}

function heading(title: string): string {
  return `<text class="title" x="12" y="22">${escapeXml(title)}</text>`;
}

function rowTop(row: number): number {
  return titleHeight + row * rowHeight;
}

function rowLabel(label: string, row: number): string {
  const x = labelWidth - 10;
  return `<text x="${x}" y="${rowTop(row) + 15}" text-anchor="end">${escapeXml(label)}</text>`;
}

function rowText(text: string, x: number, row: number): string {
  return `<text class="soft" x="${fixed(x)}" y="${rowTop(row) + 15}">${escapeXml(text)}</text>`;
}

/** Pixels to a tenth. */
function fixed(value: number): number {
  return Math.round(value * 10) / 10;
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
