"""The screen of a server on a terminal: where it is, and what to do first."""

import json
from collections.abc import Collection
from pathlib import Path

from adapters.database_url import redacted
from adapters.settings import Settings
from domain.language.identifiers import Kind

_FIRST_KIND = Kind("echo")
_KEY = "export FAIRLOG_KEY=$(fairlog keys create --name me --role submitter --any-user)"
_SENDING_KEY = ' --oauth2-bearer "$FAIRLOG_KEY"'
_UNSPECIFIED = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}


def welcome(
    url: str, settings: Settings, kinds: Collection[Kind] | None, *, needs_key: bool
) -> str:
    """Return the screen of a server at `url`.

    `kinds` are those that it serves; None: it has no worker inside. `needs_key`: requests need an
    API key.
    """
    for unspecified, here in _UNSPECIFIED.items():
        url = url.replace(unspecified, here)
    command = f"curl -s{_SENDING_KEY if needs_key else ''} {url}/v1/jobs"
    kind = _first_kind(kinds, settings)
    submission = json.dumps({"user_id": "alice", "kind": kind, "payload": {"hello": "world"}})
    if kinds is None:
        served = f"none in this process; run: fairlog worker --server {url}"
    else:
        served = ", ".join(sorted(kinds))
    lines = {
        "Dashboard": f"{url}/",
        "Database": _database(settings),
        "Kinds": served,
        "API key": _KEY if needs_key else "",
        "First job": "" if kind is None else f"{command} --json {_quoted(submission)}",
        "Stop": "Ctrl-C",
    }
    return "\n".join(
        ["", *(f"  {name:<10} {text}" for name, text in lines.items() if text), "", ""]
    )


def _first_kind(kinds: Collection[Kind] | None, settings: Settings) -> Kind | None:
    """Return a kind that runs; None if this process does not know which ones its workers serve."""
    if kinds is None:
        return _FIRST_KIND if settings.builtin_handlers else None
    return _FIRST_KIND if not kinds or _FIRST_KIND in kinds else min(kinds)


def _database(settings: Settings) -> str:
    shown = redacted(settings.database_url)
    file = shown.removeprefix("sqlite:///")
    return shown if file == shown else f"{shown} ({Path(file).absolute()})"


def _quoted(text: str) -> str:
    """Return the text as one word for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
