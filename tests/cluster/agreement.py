"""What clients were answered, held against the log of each node."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.cluster.load import LIMITED, Load
from tests.support.galera import NAME, NODES, Cluster, Node


def disagreements(cluster: Cluster, load: Load, *, limit: int, window_seconds: int) -> list[str]:
    """Return a sentence for each kind of disagreement. `limit` is that of the user LIMITED in each
    window.
    """
    found = []
    heads = [_rows(node, "SELECT position, hash FROM log_head")[0] for node in cluster.nodes]
    print(f"events: {heads[0][0]}, jobs answered: {len(load.submitted)}")
    if len(set(heads)) > 1:
        found.append(f"the logs of the nodes differ: {heads}")
    fairlog = Path(sys.executable).with_name("fairlog")
    for number in range(NODES):
        verified = subprocess.run(
            [str(fairlog), "verify", "--database-url", cluster.url(number)],
            capture_output=True,
            text=True,
            check=False,
        )
        if verified.returncode:
            found.append(f"verify on node {number}: {verified.stdout[-2000:]}")
    first = cluster.nodes[0]
    keys = "JSON_VALUE(CONVERT(data USING utf8mb4), '$.idempotency_key')"
    jobs = _rows(first, f"SELECT {keys}, position FROM events WHERE type = 'JobSubmitted'")
    positions = dict(jobs)
    if len(positions) < len(jobs):
        found.append("a key made more than one job")
    lost = [key for key, job in load.submitted.items() if positions.get(key) != job]
    if lost:
        found.append(f"{len(lost)} answered submissions are not in the log: {lost[:5]}")
    attempt = "CAST(JSON_VALUE(CONVERT(data USING utf8mb4), '$.attempt') AS INTEGER)"
    ended = Counter(
        _rows(first, f"SELECT job_id, {attempt} FROM events WHERE type = 'JobCompleted'")
    )
    if twice := [one for one, count in ended.items() if count > 1]:
        found.append(f"{len(twice)} attempts have more than one outcome: {twice[:5]}")
    if gone := [one for one in load.outcomes if one not in ended]:
        found.append(f"{len(gone)} acknowledged outcomes are not in the log: {gone[:5]}")
    window = f"FLOOR(recorded_at / {window_seconds * 1_000_000})"
    most = _rows(
        first,
        f"SELECT COUNT(*) FROM events WHERE type = 'JobSubmitted' AND user_id = '{LIMITED}' "
        f"GROUP BY {window} ORDER BY 1 DESC LIMIT 1",
    )
    print(f"most jobs of the limited user in a window: {most[0][0]} of {limit}")
    if most[0][0] > limit:
        found.append(f"{most[0][0]} jobs were admitted in a window of {limit}")
    return found


def _rows(node: Node, query: str) -> list[tuple[Any, ...]]:
    with node.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {NAME}")
        cursor.execute("SET SESSION wsrep_sync_wait = 1")
        cursor.execute(query)
        return list(cursor.fetchall())
