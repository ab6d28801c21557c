"""Opens the service that a command works on: settings, a warning about secrets, plain errors."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import rich_click as click
from sqlalchemy.exc import SQLAlchemyError

from adapters.log.schema import is_current
from adapters.settings import Settings, has_password, load_settings
from domain.language.errors import LogUnavailable
from entrypoints.cli.failure import CommandFailed, database_failure
from entrypoints.cli.output import note
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog

SETTINGS_FILE: Final = Path("fairlog.toml")

F = TypeVar("F", bound=Callable[..., object])


def database_url_option(command: F) -> F:
    """Add --database-url to a command."""
    return click.option(
        "--database-url",
        metavar="URL",
        help="sqlite:///PATH or mysql+pymysql://USER:PASSWORD@HOST:PORT/NAME. Better set as "
        "FAIRLOG_DATABASE_URL, where nobody sees the password. Default: sqlite:///fairlog.db",
    )(command)


def settings_from(flags: Mapping[str, object]) -> Settings:
    """Read the settings, each from its flag, else the environment, else fairlog.toml, else its
    default. Raises `SettingsError`.
    """
    settings = load_settings(flags, os.environ, SETTINGS_FILE)
    given = flags.get("database_url")
    if isinstance(given, str) and has_password(given):
        note(
            "Warning: every user of this machine can read the password in --database-url; set "
            "FAIRLOG_DATABASE_URL, or database_url in fairlog.toml, instead."
        )
    return settings


@contextmanager
def open_service(
    settings: Settings, wire: Callable[[Settings], Fairlog] = compose
) -> Iterator[Fairlog]:
    """Yield a service, which is closed afterwards. Raises `CommandFailed` for database errors."""
    try:
        with closing(wire(settings)) as fairlog:
            yield fairlog
    except (LogUnavailable, SQLAlchemyError) as error:
        failure = database_failure(error, settings.database_url)
        if failure is None:
            raise
        raise failure from error


def open_database(database_url: str | None) -> AbstractContextManager[Fairlog]:
    """Open a service on a database, which may be empty. None: as the settings say."""
    return open_service(settings_from({"database_url": database_url}))


@contextmanager
def open_log(database_url: str | None) -> Iterator[Fairlog]:
    """Open a service on an existing log of this release; see `open_database`."""
    with open_database(database_url) as fairlog:
        if fairlog.database.is_new:
            file = fairlog.database.url.database
            raise CommandFailed(
                f"There is no {file}: run `fairlog migrate`, or check --database-url."
            )
        if not is_current(fairlog.database):
            raise CommandFailed(
                "The database has no log of this release: run `fairlog migrate`, or check "
                "--database-url."
            )
        yield fairlog
