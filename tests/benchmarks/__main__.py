"""`python -m tests.benchmarks [NAME…] [--quick] [--write FOLDER]`.

A full run writes docs/benchmarks.md, .svg and .json; any other only with `--write`, and leaves the
figures of other benchmarks as they are. Exit code 1 when a benchmark could not be run; a target
that is missed is for people to judge.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.catalogue import NAMES, load, present
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import machine, today, versions
from tests.benchmarks.report import Circumstances, Section, aligned, table, write
from tests.benchmarks.site import Site
from tests.support.repository import ROOT

_DOCS: Final = ROOT / "docs"


def main() -> int:
    arguments = _arguments()
    names = arguments.names or present()
    measured: dict[str, tuple[Figure, ...]] = {}
    failed: list[str] = []
    started = time.monotonic()
    with Site(quick=arguments.quick) as site:
        for name in names:
            print(f"{name} ({time.monotonic() - started:.0f} s)", flush=True)
            figures = _measured(name, site)
            if figures is None:
                failed.append(name)
            else:
                measured[name] = figures
                print(aligned(table({name: figures})), flush=True)
        circumstances = Circumstances(
            today(), machine(), versions(site.servers), is_quick=site.quick
        )
    print(f"\n{aligned(table(measured))}\n")
    print(f"{circumstances.machine}\n{', '.join(circumstances.versions)}")
    print(f"{time.monotonic() - started:.0f} s in all")
    if not_there := [name for name in NAMES if name not in present()]:
        print(f"not written yet: {', '.join(not_there)}")
    if failed:
        print(f"could not be run: {', '.join(failed)}", file=sys.stderr)
    is_full = not arguments.names and not site.quick and not failed
    if folder := arguments.write or (_DOCS if is_full else None):
        write(
            folder,
            [
                Section(name, load(name).__doc__ or "", circumstances, figures)
                for name, figures in measured.items()
            ],
        )
        print(f"written: {folder}/benchmarks.md, .svg and .json")
    return 1 if failed else 0


def _measured(name: str, site: Site) -> tuple[Figure, ...] | None:
    """A benchmark that fails does not spoil the others."""
    try:
        figures = tuple(load(name).run(site))
    except Exception:  # noqa: BLE001 (whatever it is, the others can be measured)
        traceback.print_exc()
        return None
    site.has_run.add(name)
    return figures


class _Arguments(argparse.Namespace):
    names: Sequence[str]
    quick: bool
    write: Path | None


def _arguments() -> _Arguments:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small and short, to see it work")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="for benchmarks.md, .svg and .json"
    )
    arguments = parser.parse_args(namespace=_Arguments())
    if unknown := set(arguments.names) - set(present()):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
