"""A reader of the documents: types what their blocks say, in terminals, and reads the answers.

The conventions that a page follows:

- A block `sh` is typed into the first terminal, or into that which its first line names, like
  `# Terminal 2`. Each terminal keeps its variables and its folder. A command fails the test if it
  fails.
- A line that ends with the comment `# until Ctrl-C` keeps its terminal busy. When the page uses
  that terminal again, the program gets its Ctrl-C first.
- A block `console` has commands behind `$ ` and what they print, where `…` stands for anything. A
  command that only reads is repeated until it prints that, for a while.
- A block whose first line is a comment with a file name is written into that file. Any other block
  `python` is run by itself; `await` may stand outside functions in it.

Ports that the documents name are replaced by free ones, so that pages can run at the same time.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from tests.support.blocks import Block
from tests.support.client_wheel import locked_versions
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.server import ending_with_us, without_settings
from tests.support.waiting import wait_until

COMMAND_SECONDS_MAX: Final = 60.0  # usual: below 2
_REPEATED_SECONDS: Final = 60.0  # usual: below 2
_SHOWN_CHARACTERS_MAX: Final = 3000  # of a terminal, where a test fails
_PORTS: Final = ("8000", "8001", "8080", "9001", "3306")
_SERVE: Final = re.compile(r"\bfairlog serve\b(?!.*--port)")
# What the commands of documents need in the folder where they are typed.
_CHECKOUT: Final = (
    ".venv",
    "Makefile",
    "deploy",
    "docs",
    "entrypoints",
    "hatch_build.py",
    "package-lock.json",
    "pyproject.toml",
    "requirements-run.lock",
    "requirements.lock",
)
_TERMINAL: Final = re.compile(r"# Terminal (\d+)\b.*\n")
_FILE: Final = re.compile(r"(?:#|--|//) ([\w./-]+\.\w+)\n")
_BUSY: Final = re.compile(r"# until Ctrl-C\s*$")
_READY: Final = re.compile(r"listening|worker_started|running on")
_READS_ONLY: Final = re.compile(
    r"curl -s(?!.*(--json|-X |--data))|fairlog (jobs?|audit)\b|cat |tail "
)
_INTERRUPTED: Final = (0, 130, -signal.SIGINT)


class Reader:
    """One walk through a page, in a folder of its own. A context manager: it ends its programs.

    `settings` are in the environment of every terminal. `server` is the database server that a page
    finds on port 3306, and whose administrator `mariadb` acts for.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, str], server: MariaDB | None = None
    ) -> None:
        self.folder = folder
        self._ports = {port: str(free_port()) for port in _PORTS}
        if server is not None:
            self._ports["3306"] = str(server.port)
            (folder / ".my.cnf").write_text(f"[client]\nuser=root\nsocket={server.socket}\n")
        self._terminals: dict[str, _Terminal] = {}
        for name in _CHECKOUT:
            (folder / name).symlink_to(ROOT / name)
        versions = folder / ".versions"
        versions.write_text(locked_versions("requirements.lock"))
        self._environment = without_settings(os.environ) | dict(settings)
        self._environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "COLUMNS": "200",
            "ARGS": f"--port {self._ports['8000']}",  # of `make run`
            "FAIRLOG_SERVER": f"http://127.0.0.1:{self._ports['8000']}",  # of `fairlog_client`
            "PIP_CONSTRAINT": str(versions),  # so that a new release of a package breaks no page
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in self._terminals.values():
            terminal.close()

    def follow(self, block: Block) -> None:
        """Do what a block says. Raises AssertionError if something else happens than it says."""
        text = self._with_free_ports(block.text)
        if file := _FILE.match(text):
            path = self.folder / file[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        elif block.language == "python":
            self._run(
                "python", f"python - <<'END_OF_BLOCK'\n{_as_script(text)}\nEND_OF_BLOCK", block
            )
        elif block.language == "sh":
            name, text = _terminal_of(text)
            self._run(name, text, block)
        elif block.language == "console":
            name, text = _terminal_of(text)
            for command, expected in _dialogue(text):
                self._ask(name, command, expected, block)
        elif block.language != "text":  # which shows something
            raise AssertionError(f"{block.place}: a block of {block.language} needs a file name")

    def interrupt(self) -> None:
        """End the programs that keep terminals busy, as Ctrl-C does."""
        for terminal in self._terminals.values():
            terminal.interrupt()

    def port(self, documented: int) -> int:
        """Return the port that stands for one that the documents name."""
        return int(self._ports[str(documented)])

    def _run(self, name: str, text: str, block: Block) -> str:
        code, output = self._terminal(name).run(text)
        assert code == 0, f"{block.place}: exit code {code}\n{text}\n{output}\n{self._report()}"
        return output

    def _ask(self, name: str, command: str, expected: str, block: Block) -> None:
        pattern = _pattern(_narrow(expected))
        deadline = time.monotonic() + _REPEATED_SECONDS
        while True:
            _, printed = self._terminal(name).run(command)
            printed = self._with_documented_ports(printed).replace(str(self.folder), "")
            if pattern.fullmatch(_narrow(printed)):
                return
            if not _READS_ONLY.search(command) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        raise AssertionError(
            f"{block.place}: {command}\nprinted:\n{printed}\ninstead of:\n{expected}\n"
            f"{self._report()}"
        )

    def _terminal(self, name: str) -> "_Terminal":
        if name not in self._terminals:
            self._terminals[name] = _Terminal(self.folder, name, self._environment)
        return self._terminals[name]

    def _report(self) -> str:
        return "\n".join(
            f"--- terminal {name}\n{terminal.shown[-_SHOWN_CHARACTERS_MAX:]}"
            for name, terminal in self._terminals.items()
        )

    def _with_free_ports(self, text: str) -> str:
        text = _SERVE.sub(r"\g<0> --port 8000", text)
        return re.sub(rf"\b({'|'.join(_PORTS)})\b", lambda port: self._ports[port[1]], text)

    def _with_documented_ports(self, text: str) -> str:
        for documented, free in self._ports.items():
            text = re.sub(rf"\b{free}\b", documented, text)
        return text


class _Terminal:
    def __init__(self, folder: Path, name: str, environment: dict[str, str]) -> None:
        self._variables = folder / f".terminal-{name}-variables"
        self._directory = folder / f".terminal-{name}-directory"
        self._output = folder / f".terminal-{name}-output"
        self._directory.write_text(str(folder))
        self._variables.touch()
        self._output.touch()
        self._environment = environment
        self._busy: subprocess.Popen[bytes] | None = None

    @property
    def shown(self) -> str:
        return self._output.read_text(errors="replace")

    def run(self, text: str) -> tuple[int, str]:
        """Type a text; return the exit code and what it printed. A busy program gets Ctrl-C."""
        self.interrupt()
        before = len(self.shown)
        process = self._start(text)
        if _BUSY.search(text):
            self._busy = process
            wait_until(
                lambda: (
                    process.poll() is not None or _READY.search(self.shown[before:]) is not None
                ),
                f"a program is ready: {text}\n{self.shown[before:]}",
                COMMAND_SECONDS_MAX,
            )
            return process.poll() or 0, self.shown[before:]
        try:
            code = process.wait(COMMAND_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            _kill(process)
            code = -1
        return code, self.shown[before:]

    def close(self) -> None:
        if self._busy is not None:
            _kill(self._busy)

    def _start(self, text: str) -> "subprocess.Popen[bytes]":
        script = (
            f"source {self._variables} 2>/dev/null; cd {self._directory.read_text().strip()}; "
            f"trap 'declare -p >{self._variables}; pwd >{self._directory}' EXIT; "
            f"set -eu -o pipefail\n{text}\n"
        )
        with self._output.open("ab") as output:
            return subprocess.Popen(
                [*ending_with_us(), "bash", "-c", script],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def interrupt(self) -> None:
        """End the program that keeps the terminal busy, as Ctrl-C does."""
        process, self._busy = self._busy, None
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(COMMAND_SECONDS_MAX)
        assert code in _INTERRUPTED, f"after Ctrl-C the exit code is {code}\n{self.shown}"


def _as_script(text: str) -> str:
    """Return a script that runs a block of Python, in which `await` may stand outside functions."""
    return (
        "import ast, asyncio\n"
        f"code = compile({text!r}, 'block', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)\n"
        "result = eval(code, globals())\n"
        "if result is not None: asyncio.run(result)"
    )


def _terminal_of(text: str) -> tuple[str, str]:
    """Return the name of the terminal that a block is for, and the rest of the block."""
    named = _TERMINAL.match(text)
    return ("1", text) if named is None else (named[1], text[named.end() :])


def _dialogue(text: str) -> list[tuple[str, str]]:
    """Return the commands of a block, each with what it prints."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        last = next(index for index, line in enumerate(lines) if not line.endswith("\\"))
        found.append(("\n".join(lines[: last + 1]), "\n".join(lines[last + 1 :]).strip("\n")))
    return found


def _pattern(expected: str) -> re.Pattern[str]:
    """Return a pattern in which a line `…` stands for any lines, and `…` for any characters."""
    lines = [
        r"(?:.*\n)*?.*" if line == "…" else ".*".join(map(re.escape, line.split("…")))
        for line in expected.splitlines()
    ]
    return re.compile("\n".join(lines))


def _narrow(text: str) -> str:
    """Make every space one character wide: the columns of a table fit what else is in it."""
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
