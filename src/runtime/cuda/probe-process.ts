import { writeSync } from 'node:fs';
import koffi from 'koffi';
import { loadOrt } from '../ort/api.ts';
import { OrtEnvironment } from '../ort/session.ts';
import type { DriverAnswer, ProbeFinding, ProbeQuestion } from './probe-native.ts';

/**
 * Entry of the process that asks the driver and tries libraries, so that one that is broken takes
 * this process down and no other, and so that nothing stays loaded. It makes no context.
 */

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
    koffi.load(path, { lazy: true });
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

/** What ONNX Runtime says of its provider; making options loads it, and touches no device. */
function tryProvider(): string | undefined {
  try {
    const ort = loadOrt();
    // Its logger is what the loading of providers writes to.
    const environment = new OrtEnvironment(ort, { threads: 1, tensors: [] });
    const options = ort.create('createCudaOptions');
    try {
      ort.check('updateCudaOptions', options, [], [], 0);
    } finally {
      ort.release('releaseCudaOptions', options);
      environment.close();
    }
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

/** At once, so that what was found before a crash is known. */
function tell(finding: ProbeFinding): void {
  writeSync(process.stdout.fd, `${JSON.stringify(finding)}\n`);
}

const question: ProbeQuestion = JSON.parse(process.argv[2] ?? '');
tell({ about: 'driver', driver: askDriver() });
for (const path of question.libraries) tell({ about: path, error: tryLoading(path) });
if (question.provider) tell({ about: 'provider', error: tryProvider() });
