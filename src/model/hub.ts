import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { downloadFile, HubApiError, listFiles, modelInfo } from '@huggingface/hub';
import type { ListFileEntry } from '@huggingface/hub';
import { ReadonceError } from '../core/errors.ts';
import { sha256File } from './files.ts';
import type { ModelLog } from './log.ts';

const hubIdPattern = /^[\w-][\w.-]{0,95}\/[\w-][\w.-]{0,95}$/;

/** Files of a checkpoint in Hugging Face's layout; a repository may hold much else. */
const checkpointFilePattern =
  /^(config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|model([\w.-]*)\.safetensors(\.index\.json)?)$/;

/** HTTP statuses that say that the id is wrong or not public; others may pass. */
const refusedStatuses: ReadonlySet<number> = new Set([401, 403, 404]);

/** True for `owner/name`. */
export function isHubId(model: string): boolean {
  return hubIdPattern.test(model);
}

/** Which model of the hub, and where its files are kept. */
export interface HubOptions {
  /** `owner/name` */
  readonly id: string;
  readonly cacheFolder: string;
  readonly log: ModelLog | undefined;
  /** For tests; default the global one. */
  readonly fetch?: typeof fetch;
}

/**
 * The folder of a checkpoint of the Hugging Face hub, downloaded once into
 * `cacheFolder/hub/OWNER/NAME` and then used without asking the hub again, since stored contexts
 * belong to exactly these weights. Delete the folder to get a newer one.
 * @throws ReadonceError `invalid_argument` if the hub has no such public model, `unsupported` if it
 * has no safetensors, `engine_unavailable` if the hub cannot be reached or a file came damaged
 */
export async function downloadCheckpoint(options: HubOptions): Promise<string> {
  const { id, log } = options;
  const folder = hubFolder(options);
  if (await exists(folder)) return folder;
  log?.info({ model: id }, 'Downloading a model');
  const temporary = `${folder}.${randomUUID()}.tmp`;
  try {
    await mkdir(temporary, { recursive: true });
    await downloadInto(temporary, options);
    await mkdir(dirname(folder), { recursive: true });
    await rename(temporary, folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    // Another process that downloaded the same model may have been first.
    if (await exists(folder)) return folder;
    throw hubError(error, id);
  }
  return folder;
}

/** The folder of a model that was downloaded before; undefined if it was not. */
export async function downloadedFolder(
  options: Pick<HubOptions, 'id' | 'cacheFolder'>,
): Promise<string | undefined> {
  const folder = hubFolder(options);
  return (await exists(folder)) ? folder : undefined;
}

function hubFolder({ id, cacheFolder }: Pick<HubOptions, 'id' | 'cacheFolder'>): string {
  return join(cacheFolder, 'hub', id);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function downloadInto(folder: string, options: HubOptions): Promise<void> {
  const { id, log } = options;
  const remote = options.fetch === undefined ? {} : { fetch: options.fetch };
  const { sha: revision } = await modelInfo({ name: id, additionalFields: ['sha'], ...remote });
  const entries: ListFileEntry[] = [];
  for await (const entry of listFiles({ repo: id, revision, ...remote })) {
    if (entry.type === 'file' && checkpointFilePattern.test(entry.path)) entries.push(entry);
  }
  if (!entries.some(({ path }) => path.endsWith('.safetensors'))) {
    throw new ReadonceError('unsupported', `Expected safetensors in the hub's ${id} but got none`);
  }
  for (const { path, size, lfs } of entries) {
    log?.info({ model: id, path, sizeBytes: size }, 'Downloading a file');
    const blob = await downloadFile({ repo: id, path, revision, xet: false, ...remote });
    if (blob === null) throw incomplete(path, 'a file', 'none');
    const target = join(folder, path);
    await pipeline(Readable.fromWeb(blob.stream()), createWriteStream(target, { flush: true }));
    if (lfs === undefined) continue;
    const digest = await sha256File(target);
    if (digest !== lfs.oid) throw incomplete(path, `SHA-256 ${lfs.oid}`, digest);
  }
}

function incomplete(path: string, expected: string, got: string): ReadonceError {
  return new ReadonceError(
    'engine_unavailable',
    `Expected ${expected} for ${path} from the hub but got ${got}; try again`,
  );
}

function hubError(error: unknown, id: string): ReadonceError {
  if (error instanceof ReadonceError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  if (error instanceof HubApiError && refusedStatuses.has(error.statusCode)) {
    return new ReadonceError(
      'invalid_argument',
      `Expected a public model of the hub for ${id} but got: ${reason}`,
      { cause: error },
    );
  }
  return new ReadonceError(
    'engine_unavailable',
    `Expected to download ${id} from the hub but got: ${reason}; try again, or give a folder`,
    { cause: error },
  );
}
