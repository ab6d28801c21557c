"""The wheel of `fairlog-client`, installed into an environment that has nothing else.

The environment has the oldest Python that the client supports, where this machine has that.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.support.repository import ROOT
from tests.support.server import without_settings

CLIENT: Final = ROOT / "entrypoints/client"
_OLDEST: Final = "3.10"  # requires-python of the client
_SECONDS_MAX: Final = 100


class Interpreter(Struct, frozen=True):
    """A Python to install the client into."""

    executable: str
    name: str  # in the ids of the tests that use it

    def __str__(self) -> str:
        return self.name


@functools.cache
def client_interpreter() -> Interpreter:
    """Return the oldest Python that the client supports; if there is none here, the tests' own."""
    for executable in _candidates():
        if _version(executable) == _OLDEST:
            return Interpreter(executable, f"python{_OLDEST}")
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Interpreter(sys.executable, f"python{own}-as-{_OLDEST}-is-absent")


def _candidates() -> Iterator[str]:
    if found := shutil.which(f"python{_OLDEST}"):
        yield found
    yield from map(str, Path.home().glob(f".pyenv/versions/{_OLDEST}.*/bin/python"))


def _version(executable: str) -> str | None:
    """Return the version of an interpreter, such as 3.10; None if it does not run."""
    program = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


class Environment:
    """A virtual environment with the client, and without pip."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.python = home / "bin/python"

    def run(
        self, *arguments: str, cwd: Path | None = None, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run its Python, and return what it wrote. It must end well."""
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=cwd or self.home,
            env=without_settings(os.environ) | variables,
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    def distributions(self) -> set[str]:
        """Return the names of what is installed."""
        listing = (
            "from importlib.metadata import distributions\n"
            "for one in distributions(): print(one.name)"
        )
        return {
            re.sub("[-_.]+", "-", name).lower()
            for name in self.run("-c", listing).stdout.splitlines()
        }


def new_environment(directory: Path, interpreter: Interpreter) -> Environment:
    """Build the wheel, and install it as a user would, with the versions of the lock."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(CLIENT))
    [wheel] = directory.glob("fairlog_client-*.whl")
    home = directory / "venv"
    _run(interpreter.executable, "-m", "venv", "--without-pip", str(home))
    environment = Environment(home)
    versions = directory / "versions.txt"
    versions.write_text(locked_versions("requirements-run.lock"))
    _pip(
        *("--python", str(environment.python), "install"),
        *("--constraint", str(versions), "--only-binary", ":all:", str(wheel)),
    )
    return environment


def locked_versions(lock: str) -> str:
    """Return what a lock pins, without digests, as constraints for pip."""
    return "\n".join(re.findall(r"^[\w.-]+==[^ ;]+", (ROOT / lock).read_text(), re.MULTILINE))


def _pip(*arguments: str) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
