// A worker for Fairlog in Node.js (20 or newer), by the HTTP API alone. SIGTERM: it gives back what runs.
//     node docs/examples/worker.mjs http://127.0.0.1:8000 4
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

// A handler for each kind: what it returns is the result, what it throws fails the attempt.
const handlers = {
  upper: async (text) => text.toUpperCase(),
  pause: (seconds, signal) => sleep(seconds * 1000, "rested", { signal }),
};
const [server = "http://127.0.0.1:8000", concurrency = 4] = process.argv.slice(2);
const worker = `node/${randomUUID()}`;
const inHand = new Map(); // job id: {attempt, stop, isOver}, until the outcome is on the server
const stopping = new AbortController();
let heartbeatSeconds = 0.3, claimId;

// Anything but a 200 of ours is an error: a proxy may answer whatever it likes meanwhile.
async function post(path, fields, seconds = 15, stop = undefined) {
  const signal = AbortSignal.any([AbortSignal.timeout(seconds * 1000), ...(stop ? [stop] : [])]);
  const headers = { "Content-Type": "application/json" }, body = JSON.stringify({ worker, ...fields });
  const answer = await fetch(server + path, { method: "POST", headers, body, signal, redirect: "manual" });
  const text = (await answer.text()).slice(0, answer.status === 200 ? undefined : 300);
  const read = answer.status === 200 ? JSON.parse(text) : {};
  if (Array.isArray(read.jobs ?? read.lost)) return read;
  throw Object.assign(new Error(`${path} answers ${answer.status}: ${text}`), { status: answer.status });
}

// JSON.stringify would make null of NaN, {} of a Map, and leave out what is undefined.
function checkJson(value, path) {
  const plain = [null, Array.prototype, Object.prototype];
  const holds = value === null || ["string", "boolean"].includes(typeof value) || Number.isFinite(value)
    || (typeof value === "object" && plain.includes(Object.getPrototypeOf(value)));
  if (!holds) throw Object.assign(new TypeError(`${path} is no JSON`), { retry: false });
  if (typeof value === "object") for (const key in value ?? {}) checkJson(value[key], `${path}.${key}`);
}

// Whatever was thrown: reading it may throw again, and what is too long would never be taken.
const told = (e, key, or) => { try { return String(e?.[key] ?? or).slice(0, 9999).toWellFormed(); } catch { return "?"; } };
const failure = (error) => ({
  error: { type: told(error, "name", "Error"), message: told(error, "message", error), traceback: told(error, "stack", "") },
  retry: told(error, "retry", "") !== "false",
});
process.on("uncaughtException", (error) => console.error(told(error, "stack", error))); // beside a handler

async function run({ id, attempt, kind, payload }) {
  const stop = new AbortController(), mine = { attempt, stop, isOver: false };
  inHand.get(id)?.stop.abort(); // an earlier attempt was lost
  inHand.set(id, mine);
  let outcome;
  try {
    const result = (await handlers[kind](payload, stop.signal)) ?? null;
    checkJson(result, "result");
    outcome = { result: JSON.parse(JSON.stringify(result)) }; // throws here, if ever
  } catch (error) { outcome = failure(error); }
  mine.isOver = true;
  for (let pause = 100; ; pause = Math.min(2 * pause, 2000)) {
    try { // until the log itself says whether it counts: the same outcome twice changes nothing
      const { jobs: [{ status, detail }] } = await post("/v1/claims/complete", { jobs: [{ id, attempt, ...outcome }] });
      if (status === 200) break;
      console.error(`job ${id}, attempt ${attempt}: ${status} ${detail}`);
      if (status === 404 || status === 409) break; // no longer ours
      if ([400, 413, 422].includes(status)) { // it can never be accepted: fail the job instead
        if (!("result" in outcome)) break;
        outcome = failure({ name: "ResultRefused", message: detail, retry: false });
      }
    } catch (error) {
      console.error(error.message);
      if (error.status === 413 && "result" in outcome) {
        outcome = failure({ name: "ResultRefused", message: "The result is too large.", retry: false });
      }
    }
    await sleep(pause);
  }
  if (inHand.get(id) === mine) inHand.delete(id);
}

const held = () => [...inHand].map(([id, { attempt }]) => ({ id, attempt }));
async function keepLeases() {
  for (;; await sleep(heartbeatSeconds * 1000)) {
    const { lost } = await post("/v1/claims/heartbeat", { jobs: held() }, Math.max(1, heartbeatSeconds / 2)).catch((e) => {
      console.error(e.message);
      return { lost: [] };
    });
    for (const id of lost) inHand.get(id)?.stop.abort(); // cancelled, or another's
  }
}

process.once("SIGTERM", () => stopping.abort());
keepLeases();
for (let pause = 100; !stopping.signal.aborted;) {
  const max = concurrency - inHand.size, kinds = Object.keys(handlers);
  if (max < 1) { await sleep(20); continue; }
  claimId ??= randomUUID(); // a claim whose answer was lost is asked again, and gives the same jobs
  const claim = { max, kinds, wait_seconds: 20, claim_id: claimId };
  try {
    const { jobs, lease_seconds } = await post("/v1/claims", claim, 35, stopping.signal);
    [claimId, heartbeatSeconds, pause] = [undefined, lease_seconds / 3, 100];
    jobs.forEach(run);
  } catch (error) {
    if (stopping.signal.aborted) break;
    console.error(error.message);
    await sleep(pause = Math.min(2 * pause, 5000));
  }
}
const given = await post("/v1/claims", { kinds: ["none"], claim_id: claimId ?? "-" }).catch(() => ({ jobs: [] }));
for (let left = 50; left > 0 && [...inHand.values()].some(({ isOver }) => isOver); left--) await sleep(100);
const back = [...held(), ...given.jobs.map(({ id, attempt }) => ({ id, attempt }))];
await post("/v1/claims/return", { jobs: back }).catch((error) => console.error(error.message));
process.exit(0);
