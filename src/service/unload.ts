import type { ServiceDeps } from './deps.ts';

/** Has the engine forget a context that is not to be answered from any more, if it is running. */
export async function unload(
  { engine, logger }: Pick<ServiceDeps, 'engine' | 'logger'>,
  contextId: string,
): Promise<void> {
  try {
    await engine.unload(contextId);
  } catch (error) {
    // An engine that is down has nothing loaded.
    logger.warn({ err: error, contextId }, 'unload failed');
  }
}
