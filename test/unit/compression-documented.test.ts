import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { budgets, planned, precisions, scoringMethods } from '../../src/compression/registry.ts';

const methodsPage = readFileSync(new URL('../../docs/methods.md', import.meta.url), 'utf8');
const glossary = readFileSync(new URL('../../docs/glossary.md', import.meta.url), 'utf8');

describe('docs/methods.md', () => {
  const sections = methodsPage.split(/^### /m).slice(1);
  const section = (name: string): string =>
    sections.find((text) => text.startsWith(`\`${name}\`\n`)) ?? '';

  it.each([...scoringMethods.keys(), ...budgets.keys(), ...precisions.keys()])(
    'has a section on %s that says what it costs and when to use it',
    (name) => {
      expect(section(name)).toContain('**Cost**');
      expect(section(name)).toContain('**Use it**');
    },
  );

  it.each([...scoringMethods.values()])('names the paper of $name', ({ name, paper }) => {
    expect(section(name)).toContain(paper ?? 'baseline of our own');
  });

  it('has no section on what is not registered', () => {
    const documented = sections.map((text) => /^`([^`]+)`\n/.exec(text)?.[1]);
    const registered = [...scoringMethods.keys(), ...budgets.keys(), ...precisions.keys()];
    expect(documented).toEqual(registered);
  });

  it.each(Object.values(planned).flatMap((names) => Array.from(names.keys())))(
    'lists the planned %s',
    (name) => {
      const list = methodsPage.slice(methodsPage.indexOf('## Not built yet'));
      expect(list).toContain(`\`${name}\``);
    },
  );
});

describe('docs/glossary.md', () => {
  it('defines each word once', () => {
    const words = [...glossary.matchAll(/^- \*\*([^*]+)\*\*: /gm)].map((match) => match[1]);
    expect(words.length).toBeGreaterThan(30);
    expect(new Set(words).size).toBe(words.length);
    for (const word of ['KV head', 'keepRatio', 'eviction', 'reconstruction pass', 'segment']) {
      expect(words).toContain(word);
    }
  });
});
