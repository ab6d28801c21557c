"""`fairlog clock`: what time it is for the log, and for its database."""

import rich_click as click

from domain.language.moments import from_micros
from domain.log.log_time import ClockReading
from entrypoints.cli.opening import database_url_option, opened_log, settings_from
from entrypoints.cli.output import examples, say
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.clock import clock_note


@click.command(epilog=examples("fairlog clock", "fairlog clock --accept"))
@database_url_option
@click.option(
    "--accept",
    is_flag=True,
    help="The database's clock is right: have the log's time go by it again.",
)
def clock(database_url: str | None, *, accept: bool) -> None:
    """Show the log's time beside the database's clock.

    They differ when the clock stepped, or was wrong when the log was written: the log's time goes
    on evenly then, so that windows, leases, schedules and retries do. With --accept it goes by the
    clock from now on, which is recorded as an event: at once where the clock is later, and where
    the log is ahead by running a tenth slower until the clock has caught up.
    """
    with opened_log(settings_from({"database_url": database_url})) as fairlog:
        if accept:
            fairlog.writer.start()
            fairlog.accept_clock()
        _show(fairlog)


def _show(fairlog: Fairlog) -> None:
    reading: ClockReading = fairlog.read_now(fairlog.log.reading)
    say(f"database's clock  {from_micros(reading.clock):%Y-%m-%dT%H:%M:%S.%fZ}")
    say(f"log's time        {from_micros(reading.now):%Y-%m-%dT%H:%M:%S.%fZ}")
    say(clock_note(reading) or "They agree.")
