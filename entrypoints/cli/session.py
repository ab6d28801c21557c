"""Opens the service that a command works on: settings, a warning about secrets, plain errors."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Final, TypeVar

import rich_click as click
from sqlalchemy.exc import SQLAlchemyError

from adapters.database_url import has_password
from adapters.log.schema import is_current
from adapters.settings import FIELDS, Field, Settings, load_settings
from domain.language.errors import LogUnavailable
from entrypoints.cli.failure import CommandFailed, database_failure
from entrypoints.cli.output import note
from entrypoints.composition import compose
from entrypoints.processes.registration import check_settings
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.whole_history import whole_history

SETTINGS_FILE: Final = Path("fairlog.toml")

F = TypeVar("F", bound=Callable[..., object])


def setting_options(*names: str) -> Callable[[F], F]:
    """Return a decorator that adds the flags of these settings to a command."""

    def add_all(command: F) -> F:
        for name in reversed(names):
            command = _option(FIELDS[name])(command)
        return command

    return add_all


def _option(field: Field) -> Callable[[F], F]:
    flag = f"--{field.name.replace('_', '-')}"
    if field.is_switch:
        text = f"{field.description} Default: {'on' if field.default else 'off'}."
        return click.option(f"{flag}/--no{flag[1:]}", default=None, help=text)
    text = field.description
    if field.default not in {None, ""}:
        text += f" Default: {field.default}"
    if field.choices:
        return click.option(flag, type=click.Choice(field.choices), help=text)
    if field.range is not None:
        least, most = field.range
        numbers = (
            click.IntRange(int(least), int(most))
            if field.is_whole
            else click.FloatRange(least, most)
        )
        return click.option(flag, type=numbers, metavar="N", help=text)
    return click.option(flag, metavar=_METAVARS.get(field.name, "FILE"), help=text)


_METAVARS: Final = {
    "database_url": "URL",
    "handlers": "MODULE",
    "allowed_hosts": "NAMES",
    "retry_never": "NAMES",
}
database_url_option: Final = setting_options("database_url")
archive_option: Final = click.option(
    "--archive",
    metavar="DIR|URL",
    help="Read the archived part of the log too, from its segments in this directory, or at this "
    "URL of an object store.",
)


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
            fairlog.database.check_place()
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
def open_log(database_url: str | None, archive: str | None = None) -> Iterator[Fairlog]:
    """Open a service on an existing log of this release; see `open_database`.

    With the location of an archive, its `past` is that of the whole log.
    """
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
        with nullcontext() if archive is None else whole_history(fairlog, archive):
            yield fairlog


@contextmanager
def open_writer(database_url: str | None, *, submits: bool = True) -> Iterator[Fairlog]:
    """Open a service on an existing log, and start its writer.

    Raises `SettingsDiffer` while a server runs with other limits, unless nothing that it decides
    depends on them (`submits` is False): a key can always be revoked, and rows be saved.
    """
    with open_log(database_url) as fairlog:
        if submits:
            check_settings(fairlog)
        fairlog.writer.start()
        yield fairlog
