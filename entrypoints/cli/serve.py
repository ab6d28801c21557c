"""`fairlog serve` and `fairlog worker`, which run until they are stopped."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import rich_click as click

from adapters.settings import FIELDS, Settings
from domain.access.secrets import id_of
from domain.language.errors import InvalidInput
from entrypoints.cli.output import examples, note
from entrypoints.cli.session import (
    database_url_option,
    open_service,
    setting_options,
    settings_from,
)
from entrypoints.composition import compose_server
from entrypoints.runtime.host_names import is_loopback
from entrypoints.runtime.interpreter import importing
from entrypoints.runtime.logging import configure_logging, level_of
from entrypoints.runtime.tls import trusted_by
from entrypoints.use_cases.keys import has_keys

DEFAULT_WORKERS: Final = 4
KEY_VARIABLE: Final = "FAIRLOG_KEY"
# Settings of the worker, or with an option of another form.
_NOT_OF_SERVE: Final = {"database_url", "allowed_hosts", "trusted_proxies", "ca_file"}


def _joined(_: click.Context, __: click.Parameter, values: Sequence[str]) -> str | None:
    """Join the values of an option as its setting has them; None if it was not given."""
    return ",".join(values) or None


@click.command(
    epilog=examples(
        "fairlog serve",
        "fairlog serve --handlers thumbnails.py --workers 8",
        "FAIRLOG_DATABASE_URL=mysql+pymysql://… fairlog serve --server-id a --port 9000",
    )
)
@database_url_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="The port to listen on; 0 takes any free one.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    callback=_joined,
    metavar="NAME",
    help="A host name to accept in requests besides loopback names and --host, such as the one a "
    "proxy sends; may be given several times.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    callback=_joined,
    metavar="ADDRESS",
    help="The address or network (10.0.0.0/8) of a proxy that says in X-Forwarded-For, -Proto and "
    "-Prefix whom it forwards a request for; may be given several times.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow a --host other than loopback, although anybody who reaches it can then read and "
    "change everything as long as there is no API key.",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 1000),
    default=DEFAULT_WORKERS,
    show_default=True,
    metavar="N",
    help="The number of jobs that this server runs at once, all in one child process; 0: none.",
)
@click.option(
    "--worker-processes",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="The number of jobs that this server runs at once, each in a process of its own, which a "
    "time-out or a cancel ends; replaces --workers.",
)
@setting_options(*(name for name in FIELDS if name not in _NOT_OF_SERVE))
@click.option(
    "--server-id",
    metavar="NAME",
    help="MySQL, MariaDB: a name that no other running server has. A server that restarts under "
    "its name queues again at once the jobs that ran inside it; otherwise their leases must expire "
    "first.",
)
def serve(
    *,
    host: str,
    port: int,
    insecure: bool,
    workers: int,
    worker_processes: int | None,
    server_id: str | None,
    **flags: object,  # by the names of the settings
) -> None:
    """Run the service: API, dashboard and a worker, with the writer in a second process.

    It creates or upgrades the tables, recovers jobs that an earlier process left running, and then
    listens. Each setting is also a FAIRLOG_… variable, and a line in fairlog.toml.
    """
    settings = settings_from(flags)
    logs_json = _configure_logging(settings)
    # Litestar takes a third of a second to import, and no other command needs it.
    with importing():
        from entrypoints.processes.server import ServerOptions, run_server  # noqa: PLC0415 (see above)

    options = ServerOptions(
        host=host,
        port=port,
        workers=worker_processes or workers,
        is_one_process_each=worker_processes is not None,
        server_id=server_id,
        logs_json=logs_json,
        welcomes=not logs_json and sys.stderr.isatty(),
    )
    with open_service(settings, partial(compose_server, logs_json=logs_json)) as fairlog:
        if not (insecure or is_loopback(host) or settings.require_keys or has_keys(fairlog)):
            raise click.UsageError(
                f"--host {host} can be reached from other machines, and without API keys anybody "
                "there could read and change everything: create one with `fairlog keys create`, "
                "add --require-keys, or use 127.0.0.1 behind a proxy. --insecure allows it."
            )
        run_server(fairlog, settings, options)


@click.command(
    epilog=examples(
        "fairlog worker --server http://127.0.0.1:8000 --handlers thumbnails.py --concurrency 8"
    )
)
@click.option(
    "--server",
    required=True,
    metavar="URL",
    help="The server whose jobs are run, like http://127.0.0.1:8000.",
)
@setting_options("ca_file", "handlers", "builtin_handlers", "log_level", "log_format")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=DEFAULT_WORKERS,
    show_default=True,
    metavar="N",
    help="The number of jobs that are run at once, all in one child process.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="The number of jobs that are run at once, each in a process of its own, which a time-out "
    "or a cancel ends; replaces --concurrency.",
)
@click.option(
    "--key",
    metavar="SECRET",
    help="The secret of an API key with the role worker. Better set as FAIRLOG_KEY, where no other "
    "user of the machine sees it.",
)
@click.option(
    "--prefetch",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="The number of jobs that are claimed ahead of time. They wait for this worker even if "
    "another one is idle. Default: as many as handlers lately ended in a quarter of a second, and "
    "none if handlers take longer than that.",
)
def worker(
    *,
    server: str,
    concurrency: int,
    processes: int | None,
    prefetch: int | None,
    key: str | None,
    **flags: object,
) -> None:
    """Run jobs for a server, on the same machine or another one.

    A server with API keys needs one: set FAIRLOG_KEY to its secret.
    """
    if key is not None:
        note(
            "Warning: every user of this machine can read the key in --key; set FAIRLOG_KEY "
            "instead."
        )
    # Handlers run in child processes, which inherit the environment and need no key.
    from_environment = os.environ.pop(KEY_VARIABLE, None)
    settings = settings_from(flags)
    logs_json = _configure_logging(settings)
    with importing():
        from entrypoints.worker.handlers import handler_hello  # noqa: PLC0415 (only needed here)
        from fairlog_client.worker.handler_pool import handler_pool  # noqa: PLC0415 (see above)
        from fairlog_client.worker.remote import run_remote_worker  # noqa: PLC0415 (see above)

    jobs = processes or concurrency
    with handler_pool(
        handler_hello(settings, logs_json=logs_json), jobs, is_one_each=processes is not None
    ) as executor:
        run_remote_worker(
            server,
            executor,
            jobs,
            prefetch=prefetch,
            trust=trusted_by(settings.ca_file),
            key=_checked(key or from_environment or None),
        )


def _checked(key: str | None) -> str | None:
    if key is not None and id_of(key) is None:
        raise InvalidInput(
            "FAIRLOG_KEY is no API key, or a mistyped one: it has the form fl_<id>_<random>."
        )
    return key


def _configure_logging(settings: Settings) -> bool:
    """Configure logging, and return True if the lines are JSON."""
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    configure_logging(as_json=as_json, level=level_of(settings.log_level))
    return as_json
