import { loadConfig } from '../config/load-config.ts';
import type { Config } from '../config/schema.ts';
import { ReadonceError } from '../core/errors.ts';
import type { ModelConfig } from '../model/config.ts';
import { outlineModel } from '../model/load.ts';
import { probeCuda } from '../runtime/cuda/probe.ts';
import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { generalChecks } from './doctor-checks.ts';
import { describeReport, makeReport, type DoctorReport } from './doctor-report.ts';
import { asUsage, given } from './remote.ts';

const args = {
  device: { type: 'string', description: 'auto, cpu or cuda (READONCE_DEVICE)' },
  'device-index': {
    type: 'string',
    description: 'Which CUDA device (READONCE_DEVICE_INDEX)',
    valueHint: 'index',
  },
  model: { type: 'string', description: 'Model to look for (READONCE_MODEL)' },
  data: { type: 'string', description: 'Folder of the store (READONCE_DATA)' },
  cache: { type: 'string', description: 'Folder of downloads (READONCE_CACHE)' },
  config: { type: 'string', description: 'JSON file of settings (READONCE_CONFIG)' },
  json: { type: 'boolean', description: 'Print JSON instead of text' },
} as const;

/** `readonce doctor`: what there is, what is missing, how to mend it. Status 1: cannot run. */
export function doctorCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'doctor',
    description: 'Say which device can run, what is missing and how to mend it',
    args,
    run: async ({ args }) => {
      const { device, model, data, cache } = args;
      const flags = given({ device, deviceIndex: args['device-index'], model, data, cache });
      const { config } = asUsage(() => loadConfig({ flags, file: args.config }));
      const report = await examine(config);
      output.out(args.json === true ? `${JSON.stringify(report)}\n` : describeReport(report));
      if (report.ok) return;
      throw new ReadonceError(
        'engine_unavailable',
        `Expected device ${config.device} to be able to run but it is not: mend what fails above.`,
      );
    },
  });
}

/** Looks at the machine, the project and the settings; changes nothing. */
export async function examine(config: Config): Promise<DoctorReport> {
  const { device, deviceIndex } = config;
  const general = await generalChecks(config);
  const model = await configuredModel(config);
  return makeReport({ wish: { device, deviceIndex }, general, probe: probeCuda(), model });
}

/** Undefined if it is not here yet, or cannot be read: the general checks say so. */
async function configuredModel({ model, cache }: Config): Promise<ModelConfig | undefined> {
  try {
    return (await outlineModel({ model, cacheFolder: cache })).config;
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    return undefined;
  }
}
