import { once } from 'node:events';
import { constants } from 'node:os';
import type { ArgsDef } from 'citty';
import { loadConfig, serverApiKeys } from '../config/load-config.ts';
import { configKeys, describeKey, environmentName, flagName } from '../config/schema.ts';
import type { ConfigKey } from '../config/schema.ts';
import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { asUsage } from './remote.ts';

const args: ArgsDef = {
  config: { type: 'string', description: 'JSON file of settings (READONCE_CONFIG)' },
  ...Object.fromEntries(
    configKeys.map((key) => [
      flagName(key),
      {
        type: key === 'allowRemote' ? 'boolean' : 'string',
        description: `${describeKey(key)} (${environmentName(key)})`,
      } as const,
    ]),
  ),
};

/**
 * `readonce serve`: prints `readonce ready on URL` on stdout when it can answer, and nothing else
 * there. SIGTERM and SIGINT let running answers finish; a second one ends the process at once.
 */
export function serveCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'serve',
    description: 'Start the server',
    args,
    run: async ({ args }) => {
      const flags: Partial<Record<ConfigKey, string>> = {};
      for (const key of configKeys) {
        const value = args[flagName(key)];
        if (value !== undefined) flags[key] = String(value);
      }
      const file = args['config'] === undefined ? undefined : String(args['config']);
      const { config, warnings } = asUsage(() => loadConfig({ flags, file }));
      const apiKeys = asUsage(() => serverApiKeys(config));
      for (const warning of warnings) output.err(`readonce serve: ${warning}\n`);
      const stopped = stopSignal();
      // Loaded late: the other commands start faster without the server's modules.
      const { startServer } = await import('../main.ts');
      const server = await startServer({ config, apiKeys }, stopped);
      if (server === undefined) return;
      output.out(`readonce ready on ${server.url}\n`);
      if (!stopped.aborted) await once(stopped, 'abort');
      await server.close();
    },
  });
}

/** Aborts at the first SIGTERM or SIGINT; the second one ends the process. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(128 + constants.signals[name]);
      controller.abort();
    });
  }
  return controller.signal;
}
