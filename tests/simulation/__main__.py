"""`python -m tests.simulation`: one log for each of N partitions of the users, simulated.

A run of the full size writes its figures into docs/scaling.md; any other only with `--write`. The
service has nothing of this. Exit code 1 when the global limit was exceeded, or missed by more than
the bound.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from tests.benchmarks.machine import machine, today
from tests.simulation.arrivals import Traffic
from tests.simulation.report import Circumstances, parts, write
from tests.simulation.scenarios import Sizes, run
from tests.support.repository import ROOT

_PAGE: Final = ROOT / "docs" / "scaling.md"


def main() -> int:
    sizes, page_to_write = _arguments()
    started = time.monotonic()
    figures = run(sizes)
    texts = parts(figures, Circumstances(machine(), today(), time.monotonic() - started))
    print("\n\n".join(texts.values()))
    is_full = sizes.traffic == Traffic(seed=sizes.traffic.seed)
    if page := page_to_write or (_PAGE if is_full else None):
        write(page, texts)
        print(f"\nwritten: {page}")
    results = [one for both in figures.quotas for one in (both.all_busy, both.half_idle)]
    is_exact = all(one.over == 0 and one.missed_max <= one.bound for one in results)
    return 0 if is_exact else 1


class _Arguments(argparse.Namespace):
    users: int
    arrivals: int
    partitions: int
    seed: int
    write: Path | None


def _arguments() -> tuple[Sizes, Path | None]:
    """Return what to simulate, and the page that `--write` names."""
    full = Traffic()
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--users", type=int, default=full.users)
    parser.add_argument("--arrivals", type=int, default=full.arrivals, help="in all partitions")
    parser.add_argument("--partitions", type=int, default=full.partitions, help="2 or more")
    parser.add_argument("--seed", type=int, default=full.seed)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="with the parts to be replaced")
    arguments = parser.parse_args(namespace=_Arguments())
    if arguments.partitions < 2 or arguments.users < 100 * arguments.partitions:
        parser.error("there have to be two partitions and 100 users for each")
    traffic = Traffic(
        users=arguments.users,
        arrivals=arguments.arrivals,
        partitions=arguments.partitions,
        seed=arguments.seed,
    )
    sizes = Sizes(traffic=traffic)
    if traffic.arrivals < sizes.arrivals_min:
        parser.error(f"{traffic.partitions} partitions need {sizes.arrivals_min:,} arrivals")
    return sizes, arguments.write


if __name__ == "__main__":
    sys.exit(main())
