"""All commands of the command line, and the sentence and exit code of each error."""

import contextlib
import logging
import os
import sys
import traceback
from typing import Final

import rich_click as click

from entrypoints.cli import jobs, limits
from entrypoints.cli.accept_loss import accept_lost_end
from entrypoints.cli.archive import archive_log
from entrypoints.cli.audit import audit
from entrypoints.cli.callbacks import callbacks
from entrypoints.cli.clock import clock
from entrypoints.cli.database import doctor, migrate, rebuild, recover, verify
from entrypoints.cli.drain import drain
from entrypoints.cli.erase import erase
from entrypoints.cli.failure import WRONG_USE, failure_of
from entrypoints.cli.keys import keys
from entrypoints.cli.restore import restore_log
from entrypoints.cli.schedules import schedules
from entrypoints.cli.serve import serve, worker
from entrypoints.cli.whatif import whatif
from entrypoints.runtime.ending import end
from entrypoints.runtime.logging import configure_logging
from fairlog_client.logs.output import output as log_output
from fairlog_client.logs.output import reserve_standard_streams

_INTERRUPTED: Final = 130  # as shells have it: 128 + SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fairlog")
@click.option("--debug", is_flag=True, help="Also show the traceback of an error.")
def cli(*, debug: bool) -> None:
    """Fairlog: a fair, rate-limited job service whose only truth is an append-only event log.

    `fairlog serve` starts everything on http://127.0.0.1:8000, with a database in the file
    fairlog.db. For MySQL or MariaDB, set FAIRLOG_DATABASE_URL. `fairlog COMMAND -h` explains a
    command.

    Exit codes: 0 done, 1 the check failed or the work could not be done, 2 wrong options or
    settings.
    """
    configure_logging(as_json=False, level=logging.WARNING, tracebacks=debug)


for _command in (
    serve,
    worker,
    migrate,
    rebuild,
    verify,
    restore_log,
    audit,
    jobs.jobs,
    jobs.job,
    jobs.explain_job,
    jobs.submit,
    jobs.cancel,
    jobs.retry,
    drain,
    whatif,
    erase,
    archive_log,
    keys,
    limits.limits,
    limits.users,
    limits.plans,
    limits.kinds,
    limits.resources,
    limits.pause,
    limits.resume,
    schedules,
    callbacks,
    recover,
    doctor,
    clock,
    accept_lost_end,
):
    cli.add_command(_command)


def run() -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    reserve_standard_streams()
    end(_run())


def _run() -> int:
    try:
        code = cli.main(prog_name="fairlog", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _fail(error, _sentence(error), WRONG_USE)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (a traceback is not for users)
        failure = failure_of(error)
        return _fail(error, str(failure), failure.exit_code)
    return code if isinstance(code, int) else 0


def _fail(error: Exception, sentence: str, code: int) -> int:
    log_output.flush()  # log lines come before the error
    with contextlib.suppress(OSError):  # standard error is closed; the exit code remains
        if "--debug" in sys.argv[1:2]:
            traceback.print_exception(error)
        click.echo(f"fairlog: {sentence}", err=True)
    return code


def _sentence(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = "fairlog" if context is None else context.command_path
    message = " ".join(error.format_message().split())
    return f"{message.rstrip('.')}. Try `{path} --help`."
