// A worker for Fairlog in Node.js (20 or newer), over the HTTP API. On SIGTERM it returns its jobs.
//     node docs/examples/worker.mjs http://127.0.0.1:8000 4
// A server with API keys needs one of the role worker in the variable FAIRLOG_KEY.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

// The handler of each kind: its return value is the result; an exception fails the attempt.
const handlers = {
  upper: async (text) => text.toUpperCase(),
  pause: (seconds, signal) => sleep(seconds * 1000, "rested", { signal }),
};
const [server = "http://127.0.0.1:8000", concurrency = 4] = process.argv.slice(2);
const worker = `node/${randomUUID()}`;
const authorization = process.env.FAIRLOG_KEY ? { Authorization: `Bearer ${process.env.FAIRLOG_KEY}` } : {};
const held = new Map(); // job id: {attempt, stop, hasEnded}, until the server has the outcome
const stopping = new AbortController();
let heartbeatSeconds = 0.3, claimId;

// Any answer but a server's 200 is an error: a proxy may answer anything while the server is away.
async function post(path, fields, seconds = 15, stop = undefined) {
  const signal = AbortSignal.any([AbortSignal.timeout(seconds * 1000), ...(stop ? [stop] : [])]);
  const headers = { "Content-Type": "application/json", ...authorization }, body = JSON.stringify({ worker, ...fields });
  const answer = await fetch(server + path, { method: "POST", headers, body, signal, redirect: "manual" });
  const text = (await answer.text()).slice(0, answer.status === 200 ? undefined : 300);
  const read = answer.status === 200 ? JSON.parse(text) : {};
  if (Array.isArray(read.jobs ?? read.lost)) return read;
  throw Object.assign(new Error(`${path} answers ${answer.status}: ${text}`), { status: answer.status });
}

// Refuse what JSON.stringify would change: NaN to null, a Map to {}; undefined it would leave out.
function checkJson(value, path) {
  const plain = [null, Array.prototype, Object.prototype];
  const holds = value === null || ["string", "boolean"].includes(typeof value) || Number.isFinite(value)
    || (typeof value === "object" && plain.includes(Object.getPrototypeOf(value)));
  if (!holds) throw Object.assign(new TypeError(`${path} is not JSON`), { retry: false });
  if (typeof value === "object") for (const key in value ?? {}) checkJson(value[key], `${path}.${key}`);
}

// Anything can be thrown: reading it may throw again, and a long text would never be accepted.
const textOf = (e, key, or) => { try { return String(e?.[key] ?? or).slice(0, 9999).toWellFormed(); } catch { return "?"; } };
const failure = (error) => ({
  error: { type: textOf(error, "name", "Error"), message: textOf(error, "message", error), traceback: textOf(error, "stack", "") },
  retry: textOf(error, "retry", "") !== "false",
});
process.on("uncaughtException", (error) => console.error(textOf(error, "stack", error))); // such as in a handler's timer

async function run({ id, attempt, kind, payload }) {
  const stop = new AbortController(), current = { attempt, stop, hasEnded: false };
  held.get(id)?.stop.abort(); // an earlier attempt was lost
  held.set(id, current);
  let outcome;
  try {
    const result = (await handlers[kind](payload, stop.signal)) ?? null;
    checkJson(result, "result");
    outcome = { result: JSON.parse(JSON.stringify(result)) }; // an error here still fails the attempt
  } catch (error) { outcome = failure(error); }
  current.hasEnded = true;
  for (let pause = 100; ; pause = Math.min(2 * pause, 2000)) {
    try { // repeat until the log accepts or refuses the outcome: sending it twice changes nothing
      const { jobs: [{ status, detail }] } = await post("/v1/claims/complete", { jobs: [{ id, attempt, ...outcome }] });
      if (status === 200) break;
      console.error(`job ${id}, attempt ${attempt}: ${status} ${detail}`);
      if (status === 404 || status === 409) break; // the attempt is lost
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
  if (held.get(id) === current) held.delete(id);
}

const heldKeys = () => [...held].map(([id, { attempt }]) => ({ id, attempt }));
async function keepLeases() {
  for (;; await sleep(heartbeatSeconds * 1000)) {
    const { lost } = await post("/v1/claims/heartbeat", { jobs: heldKeys() }, Math.max(1, heartbeatSeconds / 2)).catch((e) => {
      console.error(e.message);
      return { lost: [] };
    });
    for (const id of lost) held.get(id)?.stop.abort(); // cancelled, or another worker's by now
  }
}

process.once("SIGTERM", () => stopping.abort());
keepLeases();
for (let pause = 100; !stopping.signal.aborted;) {
  const max = concurrency - held.size, kinds = Object.keys(handlers);
  if (max < 1) { await sleep(20); continue; }
  claimId ??= randomUUID(); // a claim whose answer was lost is repeated and returns the same jobs
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
const recalled = await post("/v1/claims", { kinds: ["none"], claim_id: claimId ?? "-" }).catch(() => ({ jobs: [] }));
for (let left = 50; left > 0 && [...held.values()].some(({ hasEnded }) => hasEnded); left--) await sleep(100);
const returned = [...heldKeys(), ...recalled.jobs.map(({ id, attempt }) => ({ id, attempt }))];
await post("/v1/claims/return", { jobs: returned }).catch((error) => console.error(error.message));
process.exit(0);
