import { parseArgs, type ParseArgsConfig } from 'node:util';
import { renderUsage, runCommand, type ArgsDef, type CommandDef } from 'citty';

/** The command line is wrong: exit status 2, as opposed to 1 for what failed while running. */
export class UsageError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'UsageError';
  }
}

/** Where a command writes: results to `out`, everything else to `err`. */
export interface Output {
  out(text: string): void;
  err(text: string): void;
  /** `err` is a terminal, where a line can be drawn over. */
  readonly interactive: boolean;
}

/** A command of `readonce`, independent of its arguments' types. */
export interface CliCommand {
  readonly name: string;
  readonly description: string;
  /** Help text; the arguments choose a subcommand, where there are any. */
  usage(rawArgs: readonly string[]): Promise<string>;
  /**
   * Runs the command with the arguments behind its name.
   * @throws UsageError for a wrong command line, ReadonceError for what failed
   */
  run(rawArgs: readonly string[]): Promise<void>;
}

/** What a command declares. */
export interface CliCommandDefinition<T extends ArgsDef> {
  readonly name: string;
  readonly description: string;
  readonly args: T;
  /** The last positional may be repeated; the values are in `args._`. */
  readonly variadic?: boolean;
  readonly run: NonNullable<CommandDef<T>['run']>;
}

/** Makes a command; unlike citty alone it refuses flags and arguments it does not know. */
export function defineCliCommand<const T extends ArgsDef>(
  definition: CliCommandDefinition<T>,
): CliCommand {
  const { name, description, args, run } = definition;
  const command: CommandDef<T> = { meta: { name: `readonce ${name}`, description }, args, run };
  return {
    name,
    description,
    usage: () => renderUsage(command),
    run: async (rawArgs) => {
      checkArguments(rawArgs, definition);
      await runCommand(command, { rawArgs: [...rawArgs] });
    },
  };
}

function checkArguments<T extends ArgsDef>(
  rawArgs: readonly string[],
  definition: CliCommandDefinition<T>,
): void {
  const options: NonNullable<ParseArgsConfig['options']> = {};
  const positionals: string[] = [];
  let required = 0;
  for (const [name, arg] of Object.entries(definition.args)) {
    if (arg.type === 'positional') {
      positionals.push(name.toUpperCase());
      if (arg.required !== false) required++;
    } else {
      const type = arg.type === 'boolean' ? 'boolean' : 'string';
      const short = 'alias' in arg ? { short: String(arg.alias) } : {};
      options[name] = { type, ...short };
    }
  }
  const given = strictly(rawArgs, options).length;
  const most = definition.variadic === true ? Infinity : positionals.length;
  if (given >= required && given <= most) return;
  const usage = `readonce ${definition.name} ${positionals.join(' ')}`.trim();
  throw new UsageError(`Expected "${usage}" but got ${given} arguments.`);
}

function strictly(
  rawArgs: readonly string[],
  options: NonNullable<ParseArgsConfig['options']>,
): readonly string[] {
  try {
    return parseArgs({ args: [...rawArgs], options, allowPositionals: true, strict: true })
      .positionals;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new UsageError(message, { cause: error });
  }
}
