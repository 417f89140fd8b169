import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { configKeys, defaultConfig, environmentName, flagName } from '../../src/config/schema.ts';
import { errorTable } from '../../src/core/errors.ts';
import { createMetrics } from '../../src/observability/metrics.ts';

/** What a reviewer would otherwise have to look for. */
const root = fileURLToPath(new URL('../..', import.meta.url));
const sourceFolders = ['src', 'storage', 'test', 'loadtest', 'eval'];
const longestFile = 400;
const usualLength = 300;
/** Share of source files that may be longer than usual. */
const longShare = 0.1;
const columns = 100;

function filesBelow(folder: string): readonly string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}

const sources = sourceFolders
  .flatMap((folder) => filesBelow(join(root, folder)))
  .filter((file) => file.endsWith('.ts'))
  .map((file) => {
    const path = relative(root, file);
    return { path, lines: read(path).split('\n') };
  });
const pages = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...['docs', 'storage', 'models', 'test', 'eval']
    .flatMap((folder) => filesBelow(join(root, folder)))
    .filter((file) => file.endsWith('.md'))
    .map((file) => relative(root, file)),
];

describe('documentation', () => {
  it('explains every error code with its status', () => {
    const page = read('docs/errors.md');
    const missing = Object.entries(errorTable).filter(
      ([code, { status }]) =>
        !page
          .split('\n')
          .some((line) => line.includes(`\`${code}\``) && line.includes(`${status}`)),
    );
    expect(missing.map(([code]) => code)).toEqual([]);
  });

  it('lists every configuration key with its variable, flag and default, and no other', () => {
    const rows = read('docs/configuration.md')
      .split('\n')
      .filter((line) => line.startsWith('| `'))
      .map((line) => line.split('|').map((cell) => cell.trim()));
    const documented = rows.map((cells) => cells.slice(1, 4));
    expect(documented).toEqual(
      configKeys.map((key) => [
        `\`${key}\``,
        `\`${environmentName(key)}\``,
        `\`--${flagName(key)}\``,
      ]),
    );
    const defaults = defaultConfig('');
    for (const [i, key] of configKeys.entries()) {
      const byDefault = defaults[key];
      const cell = byDefault === undefined ? 'none' : `\`${byDefault}\``;
      if (key !== 'cache') expect(rows[i]?.[4]).toBe(cell);
    }
  });

  it('explains every metric', async () => {
    const page = read('docs/metrics.md');
    const names = (await createMetrics().registry.getMetricsAsJSON()).map((metric) => metric.name);
    const ours = names.filter((name) => name.startsWith('readonce_'));
    expect(ours.length).toBeGreaterThan(0);
    expect(ours.filter((name) => !page.includes(`\`${name}\``))).toEqual([]);
  });

  it.each(pages)('has no dead link in %s', (page) => {
    const links = [...read(page).matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)].map(
      ([, link]) => link ?? '',
    );
    const local = links.filter((link) => !/^[a-z]+:/.test(link));
    const dead = local.filter((link) => !existsSync(join(root, dirname(page), link)));
    expect(dead).toEqual([]);
  });
});

describe('source files', () => {
  it(`are mostly shorter than ${usualLength} lines and never longer than ${longestFile}`, () => {
    const long = sources.filter(({ lines }) => lines.length > usualLength + 1);
    const tooLong = long.filter(({ lines }) => lines.length > longestFile + 1);
    expect(tooLong.map(({ path }) => path)).toEqual([]);
    expect(long.length).toBeLessThanOrEqual(sources.length * longShare);
  });

  it(`have comments of at most ${columns} columns (prettier sees to the code)`, () => {
    const wide = sources.flatMap(({ path, lines }) =>
      lines
        .map((line, i) => ({ line, where: `${path}:${i + 1}` }))
        .filter(({ line }) => /^\s*(\/\/|\/?\*)/.test(line) && line.length > columns)
        .map(({ where }) => where),
    );
    expect(wide).toEqual([]);
  });

  it('have a docstring on every export', () => {
    const bare = sources
      .filter(({ path }) => path.startsWith('src/') || path.startsWith('storage/'))
      .flatMap(({ path, lines }) =>
        lines.flatMap((line, i) => {
          const isExport = /^export (?!\{|type \{|(type )?\*)/.test(line);
          // A second signature of an overload follows its first.
          const documented = /\*\/$|^export (async )?function .*;$/.test(lines[i - 1] ?? '');
          return isExport && !documented ? [`${path}:${i + 1}`] : [];
        }),
      );
    expect(bare).toEqual([]);
  });

  it('read the environment in src/config only', () => {
    const readers = sources
      .filter(({ path }) => /^(src|storage)\//.test(path) && !path.startsWith('src/config/'))
      .filter(({ lines }) => lines.some((line) => /process\.env\b(?!\['\w+'\] = )/.test(line)));
    expect(readers.map(({ path }) => path)).toEqual([]);
  });

  it('name no folder of the machine they were written on', () => {
    const machine = [root.replace(/\/$/, ''), `${homedir()}/`];
    const texts = [
      ...sources.map(({ path, lines }) => ({ path, text: lines.join('\n') })),
      ...[...pages, 'package.json', '.ci/run'].map((path) => ({ path, text: read(path) })),
    ];
    const naming = texts.filter(({ text }) => machine.some((folder) => text.includes(folder)));
    expect(naming.map(({ path }) => path)).toEqual([]);
  });
});

describe('package.json', () => {
  it('pins every dependency to an exact version', () => {
    const manifest: Record<string, Record<string, string> | undefined> = JSON.parse(
      read('package.json'),
    );
    const pinned = /^\d+\.\d+\.\d+$/;
    for (const group of ['dependencies', 'devDependencies', 'overrides']) {
      const loose = Object.entries(manifest[group] ?? {}).filter(([, v]) => !pinned.test(v));
      expect(loose).toEqual([]);
    }
  });
});
