"""Search the larger scopes, or one of them. Exit code 1 if the protocol has a fault."""

import argparse
import sys
import time

from tests.model.scopes import EVERYTHING, LARGER
from tests.model.search import search

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--scope", choices=[*LARGER, "everything"], help="default: all but everything")
parser.add_argument("--depth", type=int, default=1_000, help="steps; default: until none is new")
arguments = parser.parse_args()

scopes = {**LARGER, "everything": EVERYTHING}
names = [arguments.scope] if arguments.scope else list(LARGER)
is_clean = True
for name in names:
    began = time.monotonic()
    found = search(scopes[name], arguments.depth)
    print(f"{name}: {found.states:,} states, {found.depth} steps deep,", end=" ")
    print(f"{'all' if found.is_complete else 'more'}, {time.monotonic() - began:.0f} s", flush=True)
    if found.violation is not None:
        is_clean = False
        print("\n".join([*found.trace, found.violation]))
sys.exit(not is_clean)
