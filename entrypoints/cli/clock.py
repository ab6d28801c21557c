"""`fairlog clock`: compares the log's time with the database's clock."""

import rich_click as click

from domain.language.moments import from_micros
from domain.log.log_time import ClockReading
from entrypoints.cli.output import echo, examples
from entrypoints.cli.session import database_url_option, open_log
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.clock import clock_note


@click.command(epilog=examples("fairlog clock", "fairlog clock --accept"))
@database_url_option
@click.option(
    "--accept",
    is_flag=True,
    help="Have the log's time follow the database's clock again, because the clock is right.",
)
def clock(database_url: str | None, *, accept: bool) -> None:
    """Show the log's time and the database's clock.

    They differ if the clock stepped, or was wrong when the log was written. The log's time then
    goes on evenly, and with it windows, leases, schedules and retries. With --accept it follows the
    clock from now on, which is recorded as an event. If the clock is ahead, it does so at once; if
    the log is ahead, its time runs a tenth slower until the clock has caught up.
    """
    with open_log(database_url) as fairlog:
        if accept:
            fairlog.writer.start()
            fairlog.accept_clock()
        _show(fairlog)


def _show(fairlog: Fairlog) -> None:
    reading: ClockReading = fairlog.read_now(fairlog.log.reading)
    echo(f"database's clock  {from_micros(reading.clock):%Y-%m-%dT%H:%M:%S.%fZ}")
    echo(f"log's time        {from_micros(reading.now):%Y-%m-%dT%H:%M:%S.%fZ}")
    echo(clock_note(reading) or "They agree.")
