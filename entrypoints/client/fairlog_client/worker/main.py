"""`fairlog-worker`: runs the jobs of a server, with the handlers of an application.

Exit codes: 0 stopped by a signal, 1 failed, 2 wrong options or handlers. An error is one line on
standard error.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from fairlog_client.errors import FairlogError
from fairlog_client.handlers.loading import HandlersError
from fairlog_client.logs.configuration import LEVELS, configure_logging
from fairlog_client.logs.output import output
from fairlog_client.transports import connection_of, trusted_by
from fairlog_client.worker.handler_pool import handler_pool
from fairlog_client.worker.handler_protocol import HandlerHello
from fairlog_client.worker.job_source import SourceRefused
from fairlog_client.worker.remote import run_remote_worker

CONCURRENCY = 4
_FAILED, _WRONG_USE, _INTERRUPTED = 1, 2, 130
_JOBS_MAX = 1000  # at once, or claimed ahead of time


def main() -> NoReturn:
    """Run a worker until a signal stops it, and end the process with its exit code."""
    code = run(sys.argv[1:])
    output.flush()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a worker with these options, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (HandlersError, SourceRefused, FairlogError) as error:
        return _fail(str(error), _WRONG_USE)
    except Exception as error:  # noqa: BLE001 (a traceback is not for users)
        return _fail(f"{type(error).__name__}: {error}", _FAILED)
    return 0


def _run(options: argparse.Namespace) -> None:
    # Handlers run in child processes, which inherit the environment and need no key.
    key = os.environ.pop("FAIRLOG_KEY", None)
    connection = connection_of(options.server, key, 0.0, options.ca_file)
    as_json = options.log_format == "json" or (
        options.log_format == "auto" and not sys.stderr.isatty()
    )
    configure_logging(as_json=as_json, level=LEVELS[options.log_level], runs_handlers=False)
    hello = HandlerHello(
        handlers=options.handlers,
        has_builtin=options.builtin_handlers,
        logs_json=as_json,
        log_level=options.log_level,
    )
    jobs = options.processes or options.concurrency
    with handler_pool(hello, jobs, is_one_each=options.processes is not None) as executor:
        run_remote_worker(
            connection.server,
            executor,
            jobs,
            prefetch=options.prefetch,
            trust=trusted_by(connection.ca_file),
            key=connection.key,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairlog-worker",
        description="Run the jobs of a Fairlog server. A server with API keys needs one: set "
        "FAIRLOG_KEY to its secret.",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help="the server whose jobs are run (FAIRLOG_SERVER; default http://127.0.0.1:8000)",
    )
    parser.add_argument(
        "--handlers",
        metavar="MODULE",
        default=os.environ.get("FAIRLOG_HANDLERS") or None,
        help="a module whose public functions are kinds of job: a dotted name, or a path ending in "
        ".py (FAIRLOG_HANDLERS)",
    )
    parser.add_argument(
        "--no-builtin-handlers",
        dest="builtin_handlers",
        action="store_false",
        help="do not serve echo, sleep and fail",
    )
    at_once = parser.add_mutually_exclusive_group()
    at_once.add_argument(
        "--concurrency",
        type=_number(1),
        default=CONCURRENCY,
        metavar="N",
        help=f"jobs that run at once in one child process (default {CONCURRENCY})",
    )
    at_once.add_argument(
        "--processes",
        type=_number(1),
        metavar="N",
        help="jobs that run at once, each in a process of its own, which a time-out or a cancel "
        "ends; replaces --concurrency",
    )
    parser.add_argument(
        "--prefetch",
        type=_number(0),
        metavar="N",
        help="jobs that are claimed ahead of time (default: as many as handlers lately ended in a "
        "quarter of a second)",
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="a PEM file with the authorities to trust (FAIRLOG_CA_FILE)",
    )
    parser.add_argument("--log-level", choices=list(LEVELS), default="info")
    parser.add_argument(
        "--log-format",
        choices=["auto", "text", "json"],
        default="auto",
        help="auto: text on a terminal, else JSON lines",
    )
    return parser


def _number(least: int) -> Callable[[str], int]:
    """Return a converter of whole numbers from `least` to _JOBS_MAX."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= _JOBS_MAX):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} to {_JOBS_MAX}"
            )
        return int(text)

    return convert


def _fail(message: str, code: int) -> int:
    output.flush()  # log lines come before the error
    sys.stderr.write(f"fairlog-worker: {' '.join(message.split())}\n")
    return code
