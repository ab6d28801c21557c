"""Statements of one commit, for 200 commands of 200 users: BEGIN and COMMIT included.

Submissions, completions, failures, heartbeats, cancellations and claims, mixed, are decided as one
batch by a service that has nothing of it in memory; also with all users on plans with throttles,
and all jobs using resources with throttles and caps. MariaDB counts what it gets, also where
several statements come in one packet; tests/integration/database/test_statements.py holds the
number for good.
"""

from collections.abc import Iterator
from typing import Final

from tests.benchmarks.figures import Figure, at_most
from tests.benchmarks.mixed_batch import COMMANDS, USERS, count_statements
from tests.benchmarks.site import KINDS, TITLES, Site

JOBS_PER_USER: Final = (2, 50)
STATEMENTS_MAX: Final = 22  # tests hold it too


def run(site: Site) -> Iterator[Figure]:
    for kind in KINDS:
        for jobs in JOBS_PER_USER[:1] if site.quick else JOBS_PER_USER:
            for has_start_limits in (False, True):
                url = site.new_database(kind)
                counted = count_statements(url, jobs, has_start_limits=has_start_limits)
                site.drop_database(kind, url)
                limited = ", with plans, throttles and resources" if has_start_limits else ""
                yield Figure(
                    f"{TITLES[kind]}, {COMMANDS} commands, {jobs * USERS:,} jobs{limited}",
                    counted.statements,
                    "statements",
                    target=at_most(STATEMENTS_MAX),
                )
