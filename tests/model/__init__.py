"""A model of the protocol by which writers, database and workers keep their promises.

`state` and `protocol` are the protocol itself, small enough to be read at once: the attempt as the
fence, leases, idempotency keys and claims, batches under the head lock, a COMMIT whose outcome is
unknown, rows that are saved behind the log, rebuilds, and the known end of the log. `jobs` decides
single requests. `invariants` says what holds in every state:

- An attempt has one outcome at most, and only the current attempt can have one.
- What was answered is in the log for ever, each event in its place.
- A request is carried out once at most, however often it is sent or tried again.
- The rows are the fold of the log up to where they are said to stand.
- A query sees what was answered before it.

`search` visits all states that can be reached, over every order of the steps, and shows the
shortest trace to a violation. `scopes` limits what takes part, so that all states can be visited.
It has the faults too that a search must find: a rule of the protocol that is left out.

| scope | `make test` | `python -m tests.model` |
|---|---|---|
| attempts: a job, two workers with two claims each, one writer | 15,566 states, 20 steps | |
| the same with two writers | | 187,512 states, 23 steps |
| commits: two submissions, two writers, two faults | 16,059 states, 20 steps | |
| the same with four faults | | 266,936 states, 29 steps |
| rows: a job, a worker, two writers, two rebuilds, one fault | 22,349 states, 16 steps | |
| the same with two faults | | 289,681 states, 19 steps |
| losses: a server that is behind is promoted, three faults | 8,500 states, 20 steps | |
| the same with three submissions | | 131,314 states, 28 steps |

A fault is a COMMIT without an answer, a writer that is killed, a server that falls behind, or its
promotion. These are all states of each scope: no longer trace leads to another one. `make test`
needs 5 s for its part, the other two minutes. Of all at once (`--scope everything --depth 6`) the
304,568 states within 6 steps were visited.

`replay` follows a trace of the real service through the protocol, and refuses a step or an answer
that it does not allow. `tests/integration/writer/test_model_traces.py` records such traces.

Left out: fairness (any waiting job may be given), limits, retries after failures, cancellation, the
clock beyond the end of a lease, notes of claims that were answered empty (such a claim that is sent
again may be given nothing), batches that are halved, and two writers on different nodes of a
cluster that hold the head lock at the same time. The end of the log is known to each writer for
itself: where a replica is promoted, one that has seen less than another goes on without the lost
events. `test_search` shows that as a limit.
"""
