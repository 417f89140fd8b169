/**
 * The import directions of docs/ARCHITECTURE.md, checked by CI:
 * cli, main → http → service → {engine client, storage}; engine → {compression, graph, runtime,
 * model, storage}; everything → core. Only main and cli read config.
 */
const layer = (name, from, allowed) => ({
  name,
  severity: 'error',
  from: { path: from },
  to: { path: '^(src|storage)/', pathNot: [from, ...allowed] },
});
const core = '^src/core/';
const logs = '^src/observability/';

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'no-orphans',
      severity: 'error',
      from: { orphan: true, path: '^(src|storage)/', pathNot: ['\\.d\\.ts$'] },
      to: {},
    },
    layer('core-imports-nothing', core, []),
    layer('config-imports-core', '^src/config/', [core]),
    layer('observability-imports-core', logs, [core]),
    layer('model-imports-core', '^src/model/', [core]),
    layer('graph-imports-model', '^src/graph/', [core, '^src/model/']),
    layer('runtime-imports-graph', '^src/runtime/', [core, '^src/model/', '^src/graph/']),
    layer('compression-knows-no-runtime', '^src/compression/', [core]),
    layer('storage-knows-no-engine', '^storage/', [core]),
    layer('engine-imports', '^src/engine/', [
      core,
      logs,
      '^src/(compression|graph|runtime|model)/',
      '^storage/',
    ]),
    layer('service-imports', '^src/service/', [
      core,
      logs,
      '^src/engine/(client|protocol)\\.ts$',
      '^src/compression/(registry|method)\\.ts$',
      '^storage/',
    ]),
    layer('http-imports', '^src/http/', [core, logs, '^src/service/']),
    layer('client-imports', '^src/client/', [core]),
    {
      name: 'src-does-not-import-tests',
      severity: 'error',
      from: { path: '^(src|storage)/' },
      to: { path: '^(test|loadtest|eval)/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.cjs', '.json'] },
  },
};
