import { defineConfig } from 'vitest/config';
import PlainReporter from './test/support/plain-reporter.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/gpu/**', 'node_modules/**'],
    // Native code (the runtime, LMDB) keeps state in the process: a file gets a process of its own.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 180_000,
    hookTimeout: 120_000,
    reporters: ['default', new PlainReporter()],
  },
});
