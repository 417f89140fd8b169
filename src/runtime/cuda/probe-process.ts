import koffi from 'koffi';
import type { ProbeAnswer, ProbeQuestion } from './probe-native.ts';

/**
 * Entry of the process that asks the driver and tries libraries, so that one that is broken takes
 * this process down and no other, and so that nothing stays loaded. It makes no context.
 */

type DriverAnswer = ProbeAnswer['driver'];
type Call = (...args: readonly unknown[]) => number;

const driverFile = 'libcuda.so.1';
const attributes = { major: 75, minor: 76 };
const nameBytes = 256;

/** Without what koffi says before the loader's own words. */
function messageOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.replace(/^Failed to load shared library: /, '');
}

/** What the loader says of a file; undefined if it could be loaded. */
function tryLoading(path: string): string | undefined {
  try {
    // Global: the provider takes its host from the library that was loaded before.
    koffi.load(path, { lazy: true, global: true });
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

function askDriver(): DriverAnswer {
  let driver: ReturnType<typeof koffi.load>;
  try {
    driver = koffi.load(driverFile);
  } catch (error) {
    return { error: `${driverFile}: ${messageOf(error)}`, devices: [] };
  }
  const version: [number] = [0];
  try {
    const explain = driver.func('int cuGetErrorString(int error, _Out_ const char **text)') as Call;
    const check = (name: string, status: number): void => {
      if (status === 0) return;
      const text: [string | null] = [null];
      explain(status, text);
      throw new Error(`${name}: ${text[0] ?? 'error'} (${status})`);
    };
    const getVersion = driver.func('int cuDriverGetVersion(_Out_ int *version)') as Call;
    check('cuDriverGetVersion', getVersion(version));
    check('cuInit', (driver.func('int cuInit(unsigned int flags)') as Call)(0));
    return { version: version[0], devices: listDevices(driver, check) };
  } catch (error) {
    return { version: version[0], error: messageOf(error), devices: [] };
  }
}

function listDevices(
  driver: ReturnType<typeof koffi.load>,
  check: (name: string, status: number) => void,
): DriverAnswer['devices'] {
  const integerOf = (name: string, parameters: string, ...args: readonly unknown[]): number => {
    const out: [number | bigint] = [0];
    check(name, (driver.func(`int ${name}(${parameters})`) as Call)(out, ...args));
    return Number(out[0]);
  };
  const count = integerOf('cuDeviceGetCount', '_Out_ int *count');
  return Array.from({ length: count }, (_, index) => {
    const device = integerOf('cuDeviceGet', '_Out_ int *device, int index', index);
    const attribute = (number: number): number => {
      const parameters = '_Out_ int *value, int attribute, int device';
      return integerOf('cuDeviceGetAttribute', parameters, number, device);
    };
    const name = Buffer.alloc(nameBytes);
    const getName = driver.func('int cuDeviceGetName(void *name, int size, int device)') as Call;
    check('cuDeviceGetName', getName(name, nameBytes, device));
    return {
      index,
      name: name.toString('utf8', 0, name.indexOf(0)),
      computeCapability: `${attribute(attributes.major)}.${attribute(attributes.minor)}`,
      memoryBytes: integerOf('cuDeviceTotalMem_v2', '_Out_ size_t *bytes, int device', device),
    };
  });
}

const question: ProbeQuestion = JSON.parse(process.argv[2] ?? '');
const answer: ProbeAnswer = {
  driver: askDriver(),
  failures: Object.fromEntries(
    question.files.map((path) => [path, tryLoading(path)] as const).filter(([, error]) => error),
  ),
};
process.stdout.write(JSON.stringify(answer));
