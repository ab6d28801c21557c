#!/usr/bin/env python3
"""Check a proof that `fairlog audit prove` wrote, without Fairlog and without the log.

    fairlog audit head > head.json                  # earlier; keep it elsewhere
    fairlog audit prove --job 17 --at 5000 > proof.json
    python verify_proof.py proof.json --head head.json

A proof is about the log up to its own head. If that is later than the head that you kept, a
consistency proof leads from yours to it:

    fairlog audit prove --consistency 5000 > growth.json
    python verify_proof.py proof.json --head head.json --consistency growth.json

A consistency proof alone shows that the log only grew between two heads:

    python verify_proof.py --head head.json --consistency growth.json --new-head new-head.json

Exit code 0: proven, 1: not. The script needs only the standard library. The trees are those of
RFC 6962, section 2.1; the checks follow RFC 9162, sections 2.1.3.2 and 2.1.4.2. The leaf of an
event is the SHA-256 of a zero byte and its fields (position, version, type, user_id, job_id,
recorded_at in microseconds, data). Each field is preceded by its length as 4 bytes big-endian;
integers have 8 bytes big-endian; an absent field is FFFFFFFF alone.
"""

import argparse
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any


class NotProven(Exception):
    """The proof is wrong, as the message says."""


def leaf(event: dict[str, Any]) -> bytes:
    fields = (
        event["position"],
        event["version"],
        event["type"],
        event["user_id"],
        event["job_id"],
        event["recorded_at"],
        event["data"],
    )
    return sha256(b"\x00" + b"".join(map(_field, fields))).digest()


def _field(value: int | str | None) -> bytes:
    if value is None:
        return b"\xff\xff\xff\xff"
    content = value.to_bytes(8, "big") if isinstance(value, int) else value.encode()
    return len(content).to_bytes(4, "big") + content


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root_from_leaf(found: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """Return the root that a path leads to; None if no tree of this size has such a path."""
    if not 0 <= index < size:
        return None
    at, last = index, size - 1
    for sibling in path:
        if last == 0:
            return None
        if at % 2 == 1 or at == last:
            found = node(sibling, found)
            while at % 2 == 0 and at != 0:
                at, last = at // 2, last // 2
        else:
            found = node(found, sibling)
        at, last = at // 2, last // 2
    return found if last == 0 else None


def roots_from_growth(
    first: int, second: int, first_root: bytes, path: list[bytes]
) -> tuple[bytes, bytes] | None:
    """Return both roots that a consistency proof leads to; None if it fits no such trees."""
    if first == second:
        return None if path else (first_root, first_root)
    hashes = [first_root, *path] if first & (first - 1) == 0 else path
    if not (0 < first < second and hashes):
        return None
    at, last = first - 1, second - 1
    while at % 2 == 1:
        at, last = at // 2, last // 2
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return None
        if at % 2 == 1 or at == last:
            old, new = node(sibling, old), node(sibling, new)
            while at % 2 == 0 and at != 0:
                at, last = at // 2, last // 2
        else:
            new = node(new, sibling)
        at, last = at // 2, last // 2
    return (old, new) if last == 0 else None


def check_inclusion(proof: dict[str, Any], head: dict[str, Any]) -> None:
    """Check that each event of the proof is in the log of the head. Raises NotProven."""
    for event in proof["events"]:
        path = [bytes.fromhex(one) for one in event["path"]]
        found = root_from_leaf(leaf(event), event["position"] - 1, head["position"], path)
        if found is None or found.hex() != head["root"]:
            raise NotProven(f"event {event['position']} does not lead to the root {head['root']}")


def check_consistency(proof: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Check that the log of the second head begins with that of the first. Raises NotProven."""
    path = [bytes.fromhex(one) for one in proof["path"]]
    found = roots_from_growth(
        first["position"], second["position"], bytes.fromhex(first["root"]), path
    )
    if found is None or (found[0].hex(), found[1].hex()) != (first["root"], second["root"]):
        raise NotProven(
            f"the log at position {second['position']} does not begin with the one at "
            f"{first['position']}"
        )


def check(
    head: dict[str, Any],
    proof: dict[str, Any] | None,
    growth: dict[str, Any] | None,
    new_head: dict[str, Any] | None,
) -> str:
    """Check all that is given, and return a sentence. Only `head` is trusted. Raises NotProven."""
    trusted = head
    if growth is not None:
        trusted = new_head or growth["second"]
        check_consistency(growth, head, trusted)
    elif new_head is not None:
        raise NotProven("a new head needs a consistency proof (--consistency)")
    if proof is None:
        return (
            f"Proven: the log at position {trusted['position']} begins with the one at "
            f"{head['position']}."
        )
    if proof["head"]["position"] != trusted["position"]:
        raise NotProven(
            f"the proof is as of position {proof['head']['position']}, the head as of "
            f"{trusted['position']}: make a proof with --at {trusted['position']}, or add a "
            "consistency proof"
        )
    check_inclusion(proof, trusted)
    positions = ", ".join(str(event["position"]) for event in proof["events"])
    return f"Proven: events {positions} are in the log of the head at {trusted['position']}."


def _read(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else dict(json.loads(path.read_text(encoding="utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a proof of `fairlog audit prove`.")
    parser.add_argument("proof", nargs="?", type=Path, help="a proof of events")
    parser.add_argument("--head", type=Path, required=True, help="the head that you kept")
    parser.add_argument("--consistency", type=Path, help="a proof that leads to a later head")
    parser.add_argument("--new-head", type=Path, help="that later head, if you have it")
    arguments = parser.parse_args()
    if arguments.proof is None and arguments.consistency is None:
        parser.error("give a proof, --consistency, or both")
    head = _read(arguments.head) or {}
    try:
        sentence = check(
            head, _read(arguments.proof), _read(arguments.consistency), _read(arguments.new_head)
        )
    except NotProven as error:
        sys.stdout.write(f"NOT proven: {error}.\n")
        return 1
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        sys.stdout.write(f"NOT proven: this is not a proof ({type(error).__name__}: {error}).\n")
        return 1
    sys.stdout.write(f"{sentence}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
