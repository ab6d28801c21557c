"""Rights from `SHOW GRANTS`, for those that no harmless statement can test."""

import re
from collections.abc import Sequence
from typing import Final

_GRANT: Final = re.compile(r"^GRANT (?P<rights>.+?) ON (?P<schema>\S+?)\.(?P<table>\S+) TO ")


def may_drop(grants: Sequence[str], schema: str, table: str) -> bool:
    """Return True if one of the lines gives DROP, and with it TRUNCATE, on a table."""
    return has_right(grants, "DROP", schema, table)


def has_right(grants: Sequence[str], right: str, schema: str, table: str) -> bool:
    """Return True if one of the lines gives a right on a table."""
    return any(
        found is not None
        and {"ALL PRIVILEGES", right} & set(found["rights"].upper().split(", "))
        and _covers(found["schema"], schema)
        and found["table"].strip("`") in {"*", table}
        for found in map(_GRANT.match, grants)
    )


def _covers(pattern: str, schema: str) -> bool:
    r"""Match a schema's pattern, which may hold the wildcards `%` and `_`, escaped by `\`."""
    name = pattern.strip("`")
    if name == "*":
        return True
    parts = re.findall(r"\\(.)|(.)", name)
    wildcards = {"%": ".*", "_": "."}
    regex = "".join(
        re.escape(literal) if literal else wildcards.get(character, re.escape(character))
        for literal, character in parts
    )
    return re.fullmatch(regex, schema, re.DOTALL) is not None
