/**
 * Checks the driver, streams and kernels from TypeScript on the GPU at hand.
 *
 *     npm run build && npm run build:native && node dist/test/gpu/driver-check.js [kernels.fatbin]
 *
 * One line for each check, and at last "N passed, N failed"; the exit status is 1 if any failed.
 */
import { createRandom } from '../../src/core/random.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { CudaDevice, cudaDevices } from '../../src/runtime/cuda/device.ts';
import { defaultKernelsPath, KernelModule } from '../../src/runtime/cuda/kernel-module.ts';
import { createKernels } from '../../src/runtime/cuda/kernels.ts';
import { checkPairs } from './check-pairs.ts';
import { checkSteps, type Check } from './check-steps.ts';
import { same } from './numbers.ts';
import { Scratch, type Gpu } from './scratch.ts';

let [passed, failed] = [0, 0];

const check: Check = (name, run) => {
  try {
    const found = run();
    passed++;
    console.log(`ok      ${name}${found === undefined ? '' : `: ${found}`}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}: ${error instanceof Error ? error.message : String(error)}`);
  }
};

function checkCopies({ device, stream }: Gpu): string {
  const sizeBytes = 8 * 2 ** 20 + 13;
  const random = createRandom(3);
  const [source, target] = [device.pin(sizeBytes), device.pin(sizeBytes)];
  const [first, second] = [device.allocate(sizeBytes), device.allocate(sizeBytes)];
  for (let i = 0; i < sizeBytes; i++) source.bytes[i] = random.nextUint32();
  const start = stream.record();
  stream.copyToDevice(first.address, source);
  stream.copyOnDevice({ target: second.address, source: first.address, sizeBytes });
  stream.copyToHost(target, second.address);
  const end = stream.record();
  const milliseconds = start.elapsedMs(end);
  same(target.bytes, source.bytes);
  // A part, then an array over a part, then an array of the garbage collector's.
  target.bytes.fill(0);
  const part = { offsetBytes: 1000, sizeBytes: 5000 };
  stream.copyToHost(target.part(part), second.address + 1000n);
  stream.copyToHost(target.bytes.subarray(6000, 7000), second.address + 6000n);
  const ordinary = new Uint8Array(3000);
  stream.copyToHost(ordinary, second.address + 7000n);
  stream.synchronize();
  same(target.bytes.subarray(1000, 7000), source.bytes.subarray(1000, 7000));
  same(ordinary, source.bytes.subarray(7000, 10_000));
  same(target.bytes.subarray(0, 1000), new Uint8Array(1000));
  for (const owner of [start, end, source, target, first, second]) owner.close();
  return `${sizeBytes} bytes to the device, on it and back in ${milliseconds.toFixed(2)} ms`;
}

function checkFills(gpu: Gpu): undefined {
  const { stream } = gpu;
  const scratch = new Scratch(gpu);
  const address = scratch.room(64, 1);
  stream.fill32(address + 4n, { count: 2, value: -2 });
  stream.fill(address + 12n, { sizeBytes: 3, value: 0xab });
  const expected = new Uint8Array(64).fill(1);
  expected.set([0xfe, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xab, 0xab, 0xab], 4);
  same(scratch.download(address, 64), expected);
  // Rows of 5 bytes, 7 apart, to rows 16 apart; from an array, then from pinned memory.
  const source = Uint8Array.from({ length: 28 }, (_, i) => 100 + i);
  const pinned = gpu.device.pin(28);
  pinned.bytes.set(source);
  for (const from of [source, pinned]) {
    stream.fill(address, { sizeBytes: 64, value: 0 });
    stream.copyRowsToDevice({
      target: address,
      targetPitchBytes: 16,
      source: from,
      sourcePitchBytes: 7,
      widthBytes: 5,
      rows: 4,
    });
    const rows = new Uint8Array(64);
    for (let row = 0; row < 4; row++) rows.set(source.subarray(7 * row, 7 * row + 5), 16 * row);
    same(scratch.download(address, 64), rows);
  }
  pinned.close();
  scratch.close();
  return undefined;
}

function checkOrder(gpu: Gpu): undefined {
  const scratch = new Scratch(gpu);
  const other = gpu.device.createStream();
  const sizeBytes = 64 * 2 ** 20;
  const [source, target] = [scratch.room(sizeBytes, 1), scratch.room(sizeBytes, 2)];
  gpu.stream.fill(source, { sizeBytes, value: 77 });
  const filled = gpu.stream.record();
  other.waitFor(filled);
  other.copyOnDevice({ target, source, sizeBytes });
  other.synchronize();
  same(scratch.download(target, sizeBytes).subarray(-100), new Uint8Array(100).fill(77));
  filled.close();
  other.close();
  scratch.close();
  return undefined;
}

function checkMemory({ device }: Gpu): string {
  let code: string | undefined;
  let message = '';
  try {
    device.allocate(10e12).close();
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    ({ code, message } = error);
  }
  if (code !== 'out_of_memory')
    throw new Error(`Expected out_of_memory but got ${code}: ${message}`);
  const memory = device.allocate(64 * 2 ** 20);
  const during = device.memory();
  memory.close();
  if (during.freeBytes <= 0 || during.freeBytes >= during.totalBytes) {
    throw new Error(`Expected some memory to be free but got ${JSON.stringify(during)}`);
  }
  return message;
}

function checkFailedCapture(gpu: Gpu): undefined {
  const scratch = new Scratch(gpu);
  const address = scratch.room(16, 1);
  const thrown = new Error('of the work');
  try {
    gpu.stream
      .capture(() => {
        gpu.stream.fill(address, { sizeBytes: 16, value: 2 });
        throw thrown;
      })
      .close();
  } catch (error) {
    if (error !== thrown) throw error;
  }
  // The stream works as before, and what was captured has not run.
  same(scratch.download(address, 16), new Uint8Array(16).fill(1));
  scratch.close();
  return undefined;
}

/** What a launch costs this thread: for information, not judged. */
function measureLaunch(gpu: Gpu): string {
  const scratch = new Scratch(gpu);
  const [lengths, units, starts] = [scratch.room(32, 0), scratch.room(32, 0), scratch.room(72, 0)];
  const sizes = { layers: 1, sequences: 8, kvHeads: 4, group: 3, format: 'f16' } as const;
  const launches = 500;
  const run = (): number => {
    gpu.stream.synchronize();
    const start = performance.now();
    for (let i = 0; i < launches; i++) {
      gpu.kernels.plan(gpu.stream, { ...sizes, lengths, units, starts });
    }
    return (performance.now() - start) / launches;
  };
  // The first rounds run before the program is compiled.
  const milliseconds = Math.min(...Array.from({ length: 20 }, run));
  scratch.close();
  return `${(milliseconds * 1e3).toFixed(1)} us of this thread for each launch`;
}

function main(path: string): void {
  for (const { index, name, computeCapability, multiprocessors, totalBytes } of cudaDevices()) {
    const { major, minor } = computeCapability;
    console.log(
      `GPU ${index}: ${name}, capability ${major}.${minor}, ${multiprocessors} multiprocessors, ` +
        `${totalBytes} bytes`,
    );
  }
  const device = CudaDevice.open(0);
  console.log(`driver for CUDA ${device.driverVersion}; kernels ${path}`);
  const module = KernelModule.load(device, path);
  const gpu: Gpu = { device, stream: device.createStream(), kernels: createKernels(module) };
  check('pinned, device, device, pinned', () => checkCopies(gpu));
  check('fills and rows', () => checkFills(gpu));
  check('a stream waits for an event of another', () => checkOrder(gpu));
  check('out of memory is an error of ours', () => checkMemory(gpu));
  check('a capture whose work fails is thrown away', () => checkFailedCapture(gpu));
  checkSteps(gpu, check);
  checkPairs(gpu, check);
  check('launching', () => measureLaunch(gpu));
  check('closing', () => {
    gpu.stream.close();
    module.close();
    device.close();
    return undefined;
  });
}

try {
  main(process.argv[2] ?? defaultKernelsPath());
} catch (error) {
  failed++;
  console.log(`FAILED  ${error instanceof Error ? error.message : String(error)}`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
