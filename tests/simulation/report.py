"""The figures as tables, on the terminal and in the marked parts of docs/scaling.md."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

from msgspec import Struct

from tests.benchmarks.figures import number
from tests.simulation.arrivals import WINDOW_SECONDS
from tests.simulation.fairness import Choice
from tests.simulation.outage import OutageResult
from tests.simulation.scenarios import FairnessFigures, Figures, QuotaFigures


class Circumstances(Struct, frozen=True):
    machine: str
    date: str
    seconds: float  # that the run took


def parts(figures: Figures, circumstances: Circumstances) -> Mapping[str, str]:
    """Return the text of each marked part of the page by its name."""
    return {
        "run": "\n".join(_run(figures, circumstances)),
        "quotas": _table(
            (
                ("lease", "---"),
                ("requests/s", "---:"),
                ("bound", "---:"),
                ("bound, % of the limit", "---:"),
                ("missed, most", "---:"),
                ("missed, mean", "---:"),
                ("half idle: missed, most", "---:"),
                ("over the limit", "---:"),
            ),
            [_quota_row(figures.limit, one) for one in figures.quotas],
        ),
        "fairness": _table(
            (
                ("users", "---"),
                ("next partition", "---"),
                ("fewest turns", "---:"),
                ("most turns", "---:"),
                ("most/fewest", "---:"),
                ("Jain's index", "---:"),
                ("wait, mean", "---:"),
                ("wait, longest", "---:"),
                ("jobs/s", "---:"),
                ("reads/s", "---:"),
            ),
            [_fairness_row(one) for one in figures.fairness],
        ),
        "outage": _table(
            (
                ("of one outage", "---"),
                ("room: mean", "---:"),
                ("room: largest", "---:"),
                ("no room: mean", "---:"),
                ("no room: largest", "---:"),
            ),
            list(_outage_rows(figures)),
        ),
    }


def write(page: Path, texts: Mapping[str, str]) -> None:
    """Replace the marked parts of a page.

    Raises `ValueError` if the page does not have exactly one part of each name.
    """
    document = page.read_text()
    for name, text in texts.items():
        begin, end = f"<!-- simulation {name} begin -->", f"<!-- simulation {name} end -->"
        marked = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(marked.findall(document)) != 1:
            raise ValueError(f"{page} has not exactly one part between {begin} and {end}")
        replacement = f"{begin}\n\n{text}\n\n{end}"
        document = marked.sub(lambda _, new=replacement: new, document)  # type: ignore[misc]
    page.write_text(document)


def _run(figures: Figures, circumstances: Circumstances) -> Iterator[str]:
    traffic = figures.traffic
    hours = figures.windows * WINDOW_SECONDS / 3600
    yield (
        f"- {traffic.users:,} users in {traffic.partitions} partitions, and "
        f"{figures.arrivals:,} arrivals in {hours:.1f} hours of simulated time "
        f"({figures.windows} windows of {WINDOW_SECONDS} s)"
    )
    refused = 100 * figures.refused / figures.arrivals
    yield f"- refused by users' own limits: {refused:.0f} % of them"
    yield f"- global limit: {figures.limit:,} submissions a window; half of the windows use it up"
    yield (
        f"- seed {traffic.seed}, {circumstances.date}, {circumstances.seconds:.0f} s on "
        f"{circumstances.machine}"
    )


def _quota_row(limit: int, figures: QuotaFigures) -> Sequence[str]:
    busy, idle = figures.all_busy, figures.half_idle
    largest = f"{busy.leases.largest:,}"
    return (
        f"up to {largest}, adapting" if busy.leases.adapts else largest,
        number(busy.requests_per_second),
        f"{busy.bound:,}",
        number(100 * busy.bound / limit),
        f"{busy.missed_max:,}",
        number(busy.missed_mean),
        f"{idle.missed_max:,}",
        f"{busy.over + idle.over:,}",
    )


def _fairness_row(figures: FairnessFigures) -> Sequence[str]:
    setup, result = figures.setup, figures.result
    has_short = bool(setup.short_share)
    return (
        figures.spread,
        ", ".join(_choice(figures)),
        f"{result.turns_min:.1f}",
        f"{result.turns_max:.1f}",
        f"{result.turns_max / result.turns_min:.2f}",
        f"{result.index:.3f}",
        f"{1000 * result.wait_mean:,.0f} ms" if has_short else "",
        f"{1000 * result.wait_max:,.0f} ms" if has_short else "",
        number(result.jobs_per_second),
        number(result.reads_per_second),
    )


def _choice(figures: FairnessFigures) -> Iterator[str]:
    setup = figures.setup
    yield setup.choice.value
    if setup.choice is not Choice.IN_TURN:
        yield f"at most {setup.stale_seconds:g} s old" if setup.stale_seconds else "known exactly"
    if setup.clock_seconds:
        yield f"clocks {setup.clock_seconds:g} s apart"
    if not setup.short_share:
        yield "nobody comes back"
    if not setup.refuses_when_busy:
        yield "workers wait for a busy partition"


def _outage_rows(figures: Figures) -> Iterator[Sequence[str]]:
    def row(name: str, figure: Callable[[OutageResult], float]) -> Sequence[str]:
        cells = [name]
        for outages in (figures.outages_with_room, figures.outages_at_limit):
            values = [figure(one) for one in outages]
            cells += [number(mean(values)), number(max(values))]
        return cells

    yield row("its jobs that started late", lambda one: one.delayed)
    yield row("the same, % of all jobs meanwhile", lambda one: 100 * one.delayed_share)
    yield row("delay of these: mean, s", lambda one: one.delay_mean)
    yield row("delay of these: longest, s", lambda one: one.delay_max)
    yield row("catching up, s", lambda one: one.catch_up_seconds)
    yield row("catching up by the formula, s", lambda one: one.catch_up_expected)
    yield row("quota that it held when it was lost", lambda one: one.quota_lost)
    yield row("its submissions refused because of the outage", lambda one: one.refused)
    yield row("others: admitted in addition, in some windows", lambda one: one.others_more)
    yield row("others: refused in addition, in other windows", lambda one: one.others_less)
    yield row("others: jobs that started late", lambda one: one.others_delayed)


def _table(headings: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    lines = [[name for name, _ in headings], [rule for _, rule in headings], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
