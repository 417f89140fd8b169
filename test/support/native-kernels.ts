import { readdirSync, readFileSync } from 'node:fs';

/** A kernel's parameter as its source declares it. */
export interface NativeParameter {
  readonly name: string;
  readonly kind: 'pointer' | 'long' | 'int' | 'float';
}

interface Macro {
  readonly parameters: readonly string[];
  readonly body: string;
}

const folder = new URL('../../native/', import.meta.url);

/** The entry points of the CUDA sources, their macros expanded: name → parameters. */
export function nativeKernels(): ReadonlyMap<string, readonly NativeParameter[]> {
  const sources = readdirSync(folder)
    .filter((name) => name.endsWith('.cu'))
    .map((name) => readFileSync(new URL(name, folder), 'utf8').replaceAll('\\\n', ' '));
  const text = sources.flatMap(expandFile).join('\n');
  const entry =
    /extern "C" __global__ void __launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*(\w+)\(([^)]*)\)/g;
  return new Map(
    [...text.matchAll(entry)].map(([, name = '', list = '']) => [
      name,
      list.split(',').map(parameter),
    ]),
  );
}

function parameter(text: string): NativeParameter {
  const name = /(\w+)\s*$/.exec(text)?.[1] ?? '';
  if (text.includes('*')) return { name, kind: 'pointer' };
  const type = /^\s*(?:const )?(\w+)/.exec(text)?.[1];
  const kinds = { int64_t: 'long', int: 'int', float: 'float' } as const;
  if (type !== 'int64_t' && type !== 'int' && type !== 'float') {
    throw new Error(`Expected a type that the launcher knows but got ${text}`);
  }
  return { name, kind: kinds[type] };
}

/** A file's lines outside of macro definitions, with its macros in place. */
function expandFile(source: string): readonly string[] {
  const macros = new Map<string, Macro>();
  const lines: string[] = [];
  for (const line of source.split('\n')) {
    const [, name, list = '', body = ''] = /^#define (\w+)\(([^)]*)\)(.*)$/.exec(line) ?? [];
    if (name === undefined) lines.push(line);
    else macros.set(name, { parameters: list.split(',').map((x) => x.trim()), body });
  }
  return [expand(lines.join('\n'), macros)];
}

function expand(text: string, macros: ReadonlyMap<string, Macro>): string {
  return text.replaceAll(/\b([A-Z_]+)\(([^()]*)\)/g, (whole, name: string, list: string) => {
    const macro = macros.get(name);
    if (macro === undefined) return whole;
    const values = list.split(',').map((x) => x.trim());
    const replaced = macro.body.replaceAll(/\w+/g, (word) => {
      const i = macro.parameters.indexOf(word);
      return i < 0 ? word : (values[i] ?? '');
    });
    return expand(replaced.replaceAll(/\s*##\s*/g, ''), macros);
  });
}
