import autocannon from 'autocannon';
import { problemCode, type Job, type Reply } from './asks.ts';
import { countProblem, countReply, createFeed, patience, whenOver, type Load } from './load.ts';

/** What a client remembers of the request it has out. */
interface Shooting {
  job?: Job;
  startMs?: number;
}

/** How soon a stop takes effect, milliseconds. */
const sampleMs = 50;
/** A server that does not answer for so long after the end of a load is broken. */
const graceSeconds = 60;

/**
 * Puts a load of requests (not streams) on a server by autocannon. Resolves when the load has ended
 * and its connections are closed; an answer that comes later is not counted.
 */
export function fire(load: Load): Promise<void> {
  const { url, clients, jobs, bounds, tally } = load;
  const seconds = (bounds.ms * patience) / 1000 + graceSeconds;
  const next = createFeed(jobs);
  let over = false;
  return new Promise((resolve, reject) => {
    const instance = autocannon<Shooting>(
      {
        url,
        connections: clients,
        duration: seconds,
        timeout: seconds,
        sampleInt: sampleMs,
        requests: [
          {
            setupRequest(request, context) {
              const job = next();
              context.job = job;
              context.startMs = performance.now();
              return {
                ...request,
                method: 'POST',
                path: job.path,
                headers: { 'content-type': 'application/json' },
                body: JSON.stringify(job.body),
              };
            },
            onResponse(status, body, { job, startMs }, headers) {
              if (over || job === undefined || startMs === undefined) return;
              const totalMs = performance.now() - startMs;
              const reply = status === 200 ? readReply(job, body) : undefined;
              if (reply === undefined) {
                const code = problemCode(body) ?? `status ${status}, unreadable`;
                countProblem(tally, { code, hasRetryAfter: hasHeader(headers, 'retry-after') });
              } else {
                countReply(tally, job, { reply, totalMs });
              }
              if (tally.requests() >= bounds.requests) end();
            },
          },
        ],
      },
      (error) => {
        stopClock();
        if (error === null) resolve();
        else reject(error);
      },
    );
    const end = (): void => {
      over = true;
      instance.stop();
    };
    const stopClock = whenOver(load, end);
    instance.on('reqError', (error: Error) => {
      if (!over) tally.failed(`connection: ${error.message}`);
    });
  });
}

/** Undefined for a body that is no answer. An error thrown here would end the process. */
function readReply(job: Job, body: string): Reply | undefined {
  try {
    return job.read(JSON.parse(body));
  } catch {
    return undefined;
  }
}

function hasHeader(headers: Readonly<Record<string, string>>, name: string): boolean {
  return Object.keys(headers).some((header) => header.toLowerCase() === name);
}
