"""Programs in Go, compiled with Debian's packages alone."""

import os
import subprocess
from pathlib import Path
from typing import Final

# Where Debian installs the sources of packages (golang-…-dev); nothing is fetched.
ENVIRONMENT: Final = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": ""}
COMPILE_SECONDS_MAX: Final = 100.0  # usual: 1, the first time 15


def compiled(source: Path, folder: Path) -> Path:
    """Compile a program into a folder, and return its file."""
    program = folder / source.stem
    subprocess.run(
        ["go", "build", "-o", str(program), str(source)],
        env={**os.environ, **ENVIRONMENT},
        check=True,
        timeout=COMPILE_SECONDS_MAX,
    )
    return program
