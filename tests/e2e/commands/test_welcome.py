"""The output of `fairlog serve` on a terminal, which a newcomer follows to the letter."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.ports import free_port
from tests.support.pseudo_terminal import PseudoTerminal
from tests.support.server import STOP_SECONDS_MAX, ending_with_us, without_settings
from tests.support.waiting import wait_until

FAIRLOG = str(Path(sys.executable).with_name("fairlog"))


@contextmanager
def serving(
    folder: Path, *options: str
) -> Iterator[tuple[PseudoTerminal, "subprocess.Popen[bytes]"]]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*ending_with_us(), FAIRLOG, "serve", *options],
        cwd=folder,
        env=without_settings(os.environ) | {"NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield PseudoTerminal(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_terminal_says_where_the_server_is_and_what_to_do_first(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, "--port", str(port)) as (terminal, process):
        wait_until(lambda: terminal.shows("Ctrl-C"), "the screen is there", 60)

        assert terminal.row("Dashboard") == f"http://127.0.0.1:{port}/"
        assert str(tmp_path / "fairlog.db") in terminal.row("Database")
        assert terminal.row("Kinds") == "echo, fail, sleep"
        assert "Content-Type" in httpx.get(terminal.row("Dashboard")).headers
        # `listening` was said before, so the writer answers at once: no wait here.
        command = subprocess.run(
            ["sh", "-c", terminal.row("First job")], capture_output=True, text=True, check=True
        )
        assert '"kind":"echo"' in command.stdout
        assert '"payload":{"hello":"world"}' in command.stdout

        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(STOP_SECONDS_MAX) == 0


def test_with_handlers_and_without_the_built_in_kinds_the_first_job_is_one_of_theirs(
    tmp_path: Path,
) -> None:
    (tmp_path / "images.py").write_text("def thumbnail(payload): return payload\n")
    options = ("--port", str(free_port()), "--handlers", "images", "--no-builtin-handlers")
    with serving(tmp_path, *options) as (terminal, _):
        wait_until(lambda: terminal.shows("Ctrl-C"), "the screen is there", 60)
        assert terminal.row("Kinds") == "thumbnail"
        assert '"kind": "thumbnail"' in terminal.row("First job")


def test_where_keys_are_required_the_screen_says_how_to_get_and_send_one(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, "--port", str(port), "--require-keys") as (terminal, _):
        wait_until(lambda: terminal.shows("Ctrl-C"), "the screen is there", 60)
        follow = f"{terminal.row('API key')}\n{terminal.row('First job')}"
        folder = str(Path(FAIRLOG).parent)
        command = subprocess.run(
            ["sh", "-c", follow],
            cwd=tmp_path,
            env=without_settings(os.environ) | {"PATH": f"{folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert '"kind":"echo"' in command.stdout, command


def test_without_workers_the_screen_names_the_command_that_runs_jobs(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, "--port", str(port), "--workers", "0") as (terminal, _):
        wait_until(lambda: terminal.shows("Ctrl-C"), "the screen is there", 60)
        assert f"fairlog worker --server http://127.0.0.1:{port}" in terminal.row("Kinds")


def test_a_higher_log_level_leaves_lines_out(tmp_path: Path) -> None:
    options = ("--port", str(free_port()), "--log-level", "warning")
    with serving(tmp_path, *options) as (terminal, _):
        wait_until(lambda: terminal.shows("Ctrl-C"), "the screen is there", 60)
        assert "listening" not in terminal.text
