import type { DevicePrecision } from '../../src/runtime/cuda/cuda-runtime.ts';
import type { ContextCache, Logits, Runtime } from '../../src/runtime/runtime.ts';
import { agreement, answer, check, relativeError } from './compare.ts';

/** Both runtimes, and a context of the same document in each. */
export interface TailChecks {
  readonly cpu: Runtime;
  readonly cuda: Runtime;
  readonly contexts: { readonly cpu: ContextCache; readonly cuda: ContextCache };
  /** The document's tokens. */
  readonly ids: Int32Array;
  readonly held: DevicePrecision;
}

/** Tails that grow long, give up their places, are cut, and many of them at once. */
export function checkTails(checks: TailChecks): void {
  checkLongQuestion(checks);
  checkCrowd(checks);
  checkParking(checks);
}

/** More tokens than one call of a question has. */
function checkLongQuestion({ cpu, cuda, contexts, ids, held }: TailChecks): void {
  const question = ids.slice(0, 600);
  const [expected, got] = [
    { runtime: cpu, context: contexts.cpu },
    { runtime: cuda, context: contexts.cuda },
  ].map(({ runtime, context }) => {
    const tail = runtime.createTail();
    const view = context.view(context.lengths);
    const slot = { context: view, tail, ids: question, startPosition: ids.length };
    const values = last(runtime.forward([slot]))
      .values()
      .slice();
    tail.close();
    view.close();
    return values;
  });
  if (expected === undefined || got === undefined) throw new Error('two runtimes');
  const error = relativeError(got, expected);
  check('a question of 600 tokens', error < (held === 'f16' ? 0.1 : 0.5), error.toExponential(2));
}

/** More answers at once than a captured step begins with. */
function checkCrowd({ cuda, contexts, ids }: TailChecks): void {
  const context = contexts.cuda;
  const questions = Array.from({ length: 70 }, (_, i) => ids.slice(3 * i, 3 * i + 4 + (i % 40)));
  const options = { tokens: 24, startPosition: ids.length };
  const asked = questions.map((each) => ({ context, ids: each }));
  const together = answer(cuda, asked, options).ids;
  const few = [0, 33, 69].flatMap((i) => answer(cuda, asked.slice(i, i + 1), options).ids);
  const same = agreement(
    few,
    [0, 33, 69].map((i) => together[i] ?? []),
  );
  check('70 answers together, as alone', same === 1, `${(100 * same).toFixed(1)} %`);
}

/** A conversation that is parked in between goes on as one that is not; a cut one as before. */
function checkParking({ cuda, contexts, ids }: TailChecks): void {
  const view = contexts.cuda.view(contexts.cuda.lengths);
  const turns = [ids.slice(5, 25), ids.slice(100, 170), ids.slice(300, 310)];
  const converse = (between: (tail: ReturnType<Runtime['createTail']>) => void): Float32Array => {
    const tail = cuda.createTail();
    let logits: Logits | undefined;
    for (const turn of turns) {
      if (tail.length > 0) between(tail);
      const startPosition = ids.length + tail.length;
      logits = last(cuda.forward([{ context: view, tail, ids: turn, startPosition }]));
    }
    const values = (logits as Logits).values().slice();
    tail.close();
    return values;
  };
  const expected = converse(() => undefined);
  const parked = relativeError(
    converse((tail) => tail.park()),
    expected,
  );
  check('a parked conversation goes on', parked === 0, parked.toExponential(2));
  const cut = relativeError(
    converse((tail) => {
      const { length } = tail;
      const more = { context: view, tail, ids: ids.slice(0, 40) };
      cuda.forward([{ ...more, startPosition: ids.length + length }]);
      tail.truncate(length);
    }),
    expected,
  );
  check('a cut conversation goes on', cut === 0, cut.toExponential(2));
  view.close();
}

function last(logits: readonly Logits[]): Logits {
  const found = logits.at(-1);
  if (found === undefined) throw new Error('expected logits');
  return found;
}
