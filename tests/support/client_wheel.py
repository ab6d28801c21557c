"""The wheel of `fairlog-client`, installed into an environment that has nothing else."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from tests.support.repository import ROOT
from tests.support.server import without_settings

CLIENT: Final = ROOT / "entrypoints/client"
_SECONDS_MAX: Final = 100


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


def new_environment(directory: Path) -> Environment:
    """Build the wheel, and install it as a user would, with the versions of the lock."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(CLIENT))
    [wheel] = directory.glob("fairlog_client-*.whl")
    home = directory / "venv"
    venv.create(home, with_pip=False)
    environment = Environment(home)
    versions = directory / "versions.txt"
    versions.write_text("\n".join(re.findall(r"^[\w.-]+==[^ ;]+", _lock(), re.MULTILINE)))
    _pip(
        *("--python", str(environment.python), "install"),
        *("--constraint", str(versions), "--only-binary", ":all:", str(wheel)),
    )
    return environment


def _lock() -> str:
    return (ROOT / "requirements-run.lock").read_text()


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
