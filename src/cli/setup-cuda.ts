import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { loadConfig } from '../config/load-config.ts';
import { ReadonceError } from '../core/errors.ts';
import { packageRoot } from '../model/embedded.ts';
import { kernelsAreOld } from '../runtime/cuda/kernel-sources.ts';
import { kernelsPath, providerFolder } from '../runtime/cuda/provider-files.ts';
import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { examine } from './doctor.ts';
import { describeReport } from './doctor-report.ts';
import {
  fetchArchive,
  installProvider,
  isInstalled,
  providerPackage,
  removeProvider,
} from './provider-install.ts';
import { asUsage } from './remote.ts';
import { withSpinner } from './spinner.ts';

const args = {
  from: {
    type: 'string',
    description: 'Take the package from this .tgz instead of the network',
    valueHint: 'file',
  },
  remove: { type: 'boolean', description: 'Take the provider away again' },
} as const;

const run = promisify(execFile);

const needs = `CUDA needs besides, none of which comes from npm:
  NVIDIA's driver 580 or newer (CUDA 13.0)
  CUDA 13's runtime, cuBLAS and cuRAND, and cuDNN 9: from NVIDIA's packages for the distribution
  (cuda-cudart-13-0 libcublas-13-0 libcurand-13-0 libcudnn9-cuda-13), or Python wheels
  (nvidia-cuda-runtime nvidia-cublas nvidia-curand nvidia-cudnn-cu13) with LD_LIBRARY_PATH.
docs/cuda.md has the commands. What this machine has:

`;

/**
 * `readonce setup-cuda`, as `npm run setup:cuda`: puts ONNX Runtime's CUDA provider beside its
 * library, builds the kernels where there is a compiler, and ends with the doctor's report.
 */
export function setupCudaCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'setup-cuda',
    description: "Install ONNX Runtime's CUDA provider (Linux x64), or remove it",
    args,
    run: async ({ args }) => {
      checkPlatform(process);
      const target = providerFolder();
      if (args.remove === true) {
        const removed = await removeProvider(target);
        const what =
          removed.length === 0 ? 'Nothing was installed' : `Removed ${removed.join(', ')}`;
        output.out(`${what} in ${target}\n`);
        return;
      }
      await install({ target, from: args.from, output });
      await buildKernels(output);
      output.out(needs);
      const { config } = asUsage(() => loadConfig());
      output.out(describeReport(await examine(config)));
    },
  });
}

function checkPlatform({ platform, arch }: NodeJS.Process): void {
  if (platform === 'linux' && arch === 'x64') return;
  throw new ReadonceError(
    'unsupported',
    `Expected linux x64 for the CUDA provider but got ${platform} ${arch}: use --device cpu here.`,
  );
}

async function install(options: {
  readonly target: string;
  readonly from: string | undefined;
  readonly output: Output;
}): Promise<void> {
  const { target, from, output } = options;
  if (await isInstalled({ target, package: providerPackage })) {
    output.out(`The provider is already in ${target}\n`);
    return;
  }
  const put = (archive: string): Promise<void> =>
    withSpinner(output, 'unpacking the provider', () =>
      installProvider({ archive, target, package: providerPackage }),
    );
  if (from === undefined) {
    const text = `fetching ${providerPackage.spec} (179 MB)`;
    const { archive, folder } = await withSpinner(output, text, () =>
      fetchArchive(providerPackage),
    );
    try {
      await put(archive);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  } else {
    await put(from);
  }
  output.out(`Installed the provider in ${target}\n`);
}

/** A provider without kernels is still installed: the doctor says what is missing. */
async function buildKernels(output: Output): Promise<void> {
  const sources = join(packageRoot(), 'native');
  if (existsSync(kernelsPath()) && !kernelsAreOld()) return;
  const build = async (): Promise<string> => {
    const { stdout } = await run('bash', [join(sources, 'build.sh')]);
    return stdout;
  };
  try {
    output.out(await withSpinner(output, 'building the kernels', build));
  } catch (error) {
    const stderr = error instanceof Error && 'stderr' in error ? String(error.stderr) : '';
    output.err(`The kernels were not built: ${stderr.trim() || String(error)}\n`);
  }
}
