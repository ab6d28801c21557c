// A worker for Fairlog in Node.js (18 or newer), by the HTTP API alone. SIGTERM: it gives back what runs.
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
const inHand = new Map(); // job id: {attempt, stop}, until the outcome is on the server
const stopping = new AbortController();
let heartbeatSeconds = 1, claimId;

async function post(path, fields, signal = AbortSignal.timeout(15_000)) {
  const headers = { "Content-Type": "application/json" }, body = JSON.stringify({ worker, ...fields });
  const answer = await fetch(server + path, { method: "POST", headers, body, signal });
  if (!answer.ok) throw new Error(`${path} answers ${answer.status}: ${await answer.text()}`);
  return answer.json();
}

async function run({ id, attempt, kind, payload }) {
  const stop = new AbortController(), outcome = { id, attempt };
  inHand.set(id, { attempt, stop });
  try { outcome.result = await handlers[kind](payload, stop.signal); }
  catch (error) { outcome.error = { type: error.name, message: error.message, traceback: error.stack }; }
  while (!stop.signal.aborted) { // until it is heard: the same outcome twice changes nothing
    try { await post("/v1/claims/complete", { jobs: [outcome] }); break; }
    catch (error) { console.error(error.message); await sleep(500); }
  }
  if (inHand.get(id)?.stop === stop) inHand.delete(id);
}

const held = () => [...inHand].map(([id, { attempt }]) => ({ id, attempt }));
async function keepLeases() {
  for (;; await sleep(heartbeatSeconds * 1000)) {
    const { lost } = await post("/v1/claims/heartbeat", { jobs: held() }).catch(() => ({ lost: [] }));
    for (const id of lost) inHand.get(id)?.stop.abort(); // cancelled, or another's by now
  }
}

process.once("SIGTERM", () => stopping.abort());
keepLeases();
while (!stopping.signal.aborted) {
  const max = concurrency - inHand.size, kinds = Object.keys(handlers);
  if (max < 1) { await sleep(20); continue; }
  claimId ??= randomUUID(); // a claim whose answer was lost is asked again, and gives the same jobs
  const claim = { max, kinds, wait_seconds: 20, claim_id: claimId };
  try {
    const { jobs, lease_seconds } = await post("/v1/claims", claim, stopping.signal);
    [claimId, heartbeatSeconds] = [undefined, lease_seconds / 3];
    jobs.forEach(run);
  } catch (error) { if (!stopping.signal.aborted) { console.error(error.message); await sleep(500); } }
}
const open = await post("/v1/claims", { kinds: ["none"], claim_id: claimId ?? "-" }).catch(() => ({ jobs: [] }));
await post("/v1/claims/return", { jobs: [...held(), ...open.jobs.map(({ id, attempt }) => ({ id, attempt }))] });
process.exit(0);
