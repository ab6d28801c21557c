// `node graphile_worker.mjs prepare|submit|work URL JOBS JOBS_PER_BATCH CONCURRENCY`.
// As its documentation recommends for throughput: a local queue, and completions in batches.

import { Logger, makeWorkerUtils, run } from "graphile-worker";

const [role, connectionString, jobs, batch, concurrency] = process.argv.slice(2);
const total = Number(jobs);
const logger = new Logger(() => () => {}); // a line for each job would be most of the work

async function prepare() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  await utils.release();
}

async function submit() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  for (let first = 0; first < total; first += Number(batch)) {
    const size = Math.min(Number(batch), total - first);
    await utils.addJobs(
      Array.from({ length: size }, (_, index) => ({
        identifier: "noop",
        payload: { image: `${first + index}`, width: 640 },
      })),
    );
  }
  await utils.release();
}

async function work() {
  let done = 0;
  let resolve;
  const allDone = new Promise((resolved) => {
    resolve = resolved;
  });
  const runner = await run({
    connectionString,
    logger,
    noHandleSignals: true,
    taskList: {
      noop: async () => {
        if (++done === total) resolve();
      },
    },
    preset: {
      worker: {
        concurrentJobs: Number(concurrency),
        localQueue: { size: Number(batch) },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        pollInterval: 20,
      },
    },
  });
  await allDone;
  await runner.stop(); // returns when the last completions are written
}

const started = performance.timeOrigin + performance.now();
await { prepare, submit, work }[role]();
const ended = performance.timeOrigin + performance.now();
console.log(JSON.stringify({ started, ended }));
process.exit(0);
