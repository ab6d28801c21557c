// `node bullmq.mjs prepare|submit|work URL JOBS JOBS_PER_BATCH CONCURRENCY`.

import { Queue, Worker } from "bullmq";

const [role, url, jobs, batch, concurrency] = process.argv.slice(2);
const total = Number(jobs);
const { hostname: host, port } = new URL(url);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

async function prepare() {
  const queue = new Queue("noop", { connection });
  await queue.obliterate({ force: true });
  await queue.close();
}

async function submit() {
  const queue = new Queue("noop", { connection });
  for (let first = 0; first < total; first += Number(batch)) {
    const size = Math.min(Number(batch), total - first);
    await queue.addBulk(
      Array.from({ length: size }, (_, index) => ({
        name: "noop",
        data: { image: `${first + index}`, width: 640 },
        opts: { removeOnComplete: true },
      })),
    );
  }
  await queue.close();
}

async function work() {
  let done = 0;
  await new Promise((resolve) => {
    const worker = new Worker("noop", async () => {}, {
      connection,
      concurrency: Number(concurrency),
    });
    worker.on("completed", () => {
      if (++done === total) resolve(worker.close());
    });
  });
}

const started = performance.timeOrigin + performance.now();
await { prepare, submit, work }[role]();
const ended = performance.timeOrigin + performance.now();
console.log(JSON.stringify({ started, ended }));
process.exit(0);
