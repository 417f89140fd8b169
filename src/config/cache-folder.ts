import { homedir } from 'node:os';
import { join } from 'node:path';

/** Variables of a process, as `process.env` has them. */
export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * `readonce` in the user's cache folder: `$XDG_CACHE_HOME` or `~/.cache`, on macOS
 * `~/Library/Caches`, on Windows `%LOCALAPPDATA%`.
 */
export function userCacheFolder(env: Environment, platform: NodeJS.Platform): string {
  const home = homedir();
  if (platform === 'darwin') return join(home, 'Library', 'Caches', 'readonce');
  if (platform === 'win32') {
    const local = env['LOCALAPPDATA'] ?? '';
    return join(local === '' ? join(home, 'AppData', 'Local') : local, 'readonce');
  }
  const xdg = env['XDG_CACHE_HOME'] ?? '';
  return join(xdg === '' ? join(home, '.cache') : xdg, 'readonce');
}
