"""The settings, read once: flags, else environment, else fairlog.toml, else default.

A wrong value stops the start with one sentence that names the setting as its author wrote it, what
was found and what is accepted. A database URL is the exception: it may hold a password, so no
message and no repr() ever shows it. A value that another source overrides is not looked at.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, inspect
from msgspec.structs import asdict, replace
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError


class SettingsError(ValueError):
    """A setting is wrong. The message is one sentence for the operator and holds no secret."""


class Settings(Struct, frozen=True, kw_only=True):
    """Every setting, checked. Ranges include both ends.

    Build it with `load_settings`; building it directly, as a test may, checks nothing.
    """

    # sqlite:///path (relative to the current directory) or mysql+pymysql://…/name. May hold a
    # password: show it through `redacted` alone.
    database_url: str = "sqlite:///fairlog.db"

    # Seconds, default 60, from 1 to 2,678,400 (31 days). The length of a rate-limit window;
    # windows are aligned to Unix time 0.
    window_seconds: Annotated[int, Meta(ge=1, le=2_678_400)] = 60

    # Submissions a window by all users together, default 6,000, from 0 (nobody may submit) to
    # 1,000,000,000.
    global_limit: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 6_000

    # Submissions a window by each user, default 600, from 0 (only users with a limit of their own
    # may submit) to 1,000,000,000. May exceed global_limit, which then decides.
    user_limit: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 600

    # Seconds, default 30, from 1 to 86,400 (a day). How long a claim holds without a heartbeat,
    # and so how long the jobs of a lost worker wait.
    lease_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 30

    # Seconds, default 86,400 (a day), from 1 to 31,622,400 (366 days). How long an idempotency key,
    # explicit or a digest, means the same job; until that has ended, if it takes longer.
    idempotency_seconds: Annotated[int, Meta(ge=1, le=31_622_400)] = 86_400

    # Attempts, default 3, from 1 (never retried) to 1,000. A lost lease counts as one.
    max_attempts: Annotated[int, Meta(ge=1, le=1_000)] = 3

    # Connections, default 1,000, from 10 to 100,000. Beyond it the server closes those on which it
    # has waited longest for a client, then those whose requests have waited longest for events.
    max_connections: Annotated[int, Meta(ge=10, le=100_000)] = 1_000

    # Seconds, default 75, from 1 to 3,600. How long a connection stays open between two requests;
    # longer than a proxy in front keeps its own (nginx: 60), or that finds them closed.
    keep_alive_seconds: Annotated[int, Meta(ge=1, le=3_600)] = 75

    # Seconds, default 60, from 1 to 3,600. How long a request may take to arrive, from its first
    # byte to its last, and how long a client may read nothing of an answer.
    request_seconds: Annotated[int, Meta(ge=1, le=3_600)] = 60

    # MiB, default 128, from 16 (one batch) to 65,536. The bodies of all requests in progress
    # together, and as much again for responses that clients have not read.
    bodies_mib: Annotated[int, Meta(ge=16, le=65_536)] = 128

    # Names for the header Host besides those of loopback and --host, separated by commas; default:
    # none. Other names are refused.
    allowed_hosts: str = ""

    # PEM files with the server's certificate chain and its private key; both, or None (the
    # default: HTTP without TLS). They are read once, at the start of `serve`.
    tls_cert: str | None = None
    tls_key: str | None = None

    # A PEM file with the certificates that `worker` trusts as authorities, and no others. None, the
    # default: those in the file that SSL_CERT_FILE names, else the public ones.
    ca_file: str | None = None

    # Seconds, default 0 (none), at most 604,800 (7 days). The longest run of one attempt at a job
    # that was submitted without a timeout_seconds of its own.
    timeout_seconds: Annotated[int, Meta(ge=0, le=604_800)] = 0

    # A dotted module name or a path ending in .py, see adapters/handlers/loading.py. None, the
    # default: the built-in handlers alone.
    handlers: str | None = None

    # Whether the built-in kinds (echo, sleep, fail) are served, default on.
    builtin_handlers: bool = True

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"Settings({fields})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Give what rich may print; msgspec's own would show the password in a traceback."""
        values = asdict(self) | {"database_url": redacted(self.database_url)}
        return list(values.items())


class _Given(Struct, frozen=True):
    """A value as it was given, unchecked, and its source."""

    written_as: str  # for messages: "--handlers", "FAIRLOG_HANDLERS", "handlers in fairlog.toml"
    value: object


_FIELDS = Settings.__struct_fields__

_RANGES: Mapping[str, tuple[int, int]] = {
    field.name: (field.type.ge, field.type.le)
    for field in inspect.type_info(Settings).fields  # type: ignore[attr-defined]  # a StructType
    if isinstance(field.type, inspect.IntType)
    and field.type.ge is not None
    and field.type.le is not None
}

_PORT_MAX = 65_535
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?|\[?[0-9a-f:.]*:[0-9a-f:.]*\]?")
_SHOWN_CHARACTERS_MAX = 60

_URL_ACCEPTED = (
    "sqlite:///path/to/file.db (a file, without options) or"
    " mysql+pymysql://user:password@host:3306/name (a character like @ or % in the password is"
    " written %40 or %25; mysql:// and mariadb:// mean the same)"
)


def load_settings(
    overrides: Mapping[str, object], environ: Mapping[str, str], file: Path | None
) -> Settings:
    """Read every setting from the first source that gives it.

    `overrides` are the flags by field name; None means not given. `environ` gives FAIRLOG_* names:
    an empty value means not given, and names that are no setting are ignored (other tools and the
    tests have FAIRLOG_* variables too). `file` is a TOML file of lower-case field names; None, or a
    file that does not exist, gives nothing, and an unknown key in it is an error.

    Raises SettingsError; TypeError if an override is no setting, which is the caller's mistake.
    """
    given = _from_file(file) | _from_environment(environ) | _from_flags(overrides)
    return replace(Settings(), **{field: _checked(field, found) for field, found in given.items()})


def has_password(database_url: str) -> bool:
    """Return True if the URL holds a password. One that cannot be parsed counts as having none."""
    url = _parsed(database_url)
    return url is not None and bool(url.password or _secret_options(url))


def redacted(database_url: str) -> str:
    """Return the URL with its passwords hidden, and nothing of one that cannot be parsed."""
    url = _parsed(database_url)
    if url is None:
        return "(a database URL that cannot be read)"
    hidden = dict.fromkeys(_secret_options(url), "hidden")
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def _from_flags(overrides: Mapping[str, object]) -> dict[str, _Given]:
    if unknown := overrides.keys() - set(_FIELDS):
        raise TypeError(f"not a setting: {', '.join(sorted(unknown))}")
    return {
        field: _Given("--" + field.replace("_", "-"), value)
        for field, value in overrides.items()
        if value is not None
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    names = {field: f"FAIRLOG_{field.upper()}" for field in _FIELDS}
    # Empty is how shells and Compose files (`${X:-}`) say "not set".
    return {
        field: _Given(name, environ[name]) for field, name in names.items() if environ.get(name)
    }


def _from_file(file: Path | None) -> dict[str, _Given]:
    if file is None or not file.exists():
        return {}
    table = _toml(file)
    for key in table:
        if key not in _FIELDS:
            raise SettingsError(f"{_shown(key)} in {file} is not a setting{_suggestion(key)}")
    return {key: _Given(f"{key} in {file}", value) for key, value in table.items()}


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
    # Raised out here: a chained decoding error would carry the file's bytes, password included.
    raise SettingsError(f"{file} must be a TOML file of settings ({problem}).")


def _suggestion(key: str) -> str:
    """Return the end of the sentence about an unknown key: what was meant, or all there are."""
    near = difflib.get_close_matches(key.lower().removeprefix("fairlog_"), _FIELDS, n=1)
    return f"; did you mean {near[0]}?" if near else f", the settings are {', '.join(_FIELDS)}."


def _checked(field: str, given: _Given) -> str | int | bool:
    match field:
        case "database_url":
            return _database_url(given)
        case "handlers":
            return _module(given)
        case "tls_cert" | "tls_key" | "ca_file":
            return _file(given)
        case "allowed_hosts":
            return _hosts(given)
        case "builtin_handlers":
            return _switch(given)
        case _:
            return _whole_number(given, *_RANGES[field])


def _whole_number(given: _Given, lowest: int, highest: int) -> int:
    value = given.value
    # Not int() alone: it takes "6_000", "٣" and, from a file, true and 1.5.
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
        return value
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be"
        f" a whole number from {lowest} to {highest}."
    )


def _switch(given: _Given) -> bool:
    if isinstance(given.value, bool):
        return given.value
    words = {"on": True, "true": True, "yes": True, "1": True} | {
        "off": False,
        "false": False,
        "no": False,
        "0": False,
    }
    if isinstance(given.value, str) and (word := given.value.strip().lower()) in words:
        return words[word]
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be on or off (true or false)."
    )


def _module(given: _Given) -> str:
    if isinstance(given.value, str) and given.value.strip():
        return given.value.strip()
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be"
        " a module's dotted name or a path ending in .py."
    )


def _file(given: _Given) -> str:
    if isinstance(given.value, str) and given.value.strip():
        return given.value
    raise SettingsError(f"{given.written_as} is {_shown(given.value)}, but must be a file's path.")


def _hosts(given: _Given) -> str:
    if isinstance(given.value, str):
        names = [name.strip().lower() for name in given.value.split(",") if name.strip()]
        if names and all(_HOST.fullmatch(name) for name in names):
            return ",".join(names)
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be host names or addresses without"
        " a port, separated by commas."
    )


def _database_url(given: _Given) -> str:
    if isinstance(given.value, str):
        text = re.sub(r"^(mysql|mariadb)://", "mysql+pymysql://", given.value.strip())
        url = _parsed(text)
        if url is not None and (_is_sqlite_file(url) or _is_mysql_database(url)):
            return text
    raise SettingsError(
        f"{given.written_as} is not a database URL that Fairlog knows, it must be {_URL_ACCEPTED}."
    )


def _is_sqlite_file(url: URL) -> bool:
    # A database in memory is another one for each connection, and gone with the process.
    in_a_file = url.database not in (None, "", ":memory:")
    # sqlite://fairlog.db, a slash short, takes the file for a host.
    return (
        url.drivername == "sqlite"
        and in_a_file
        and not (url.host or url.port or url.username or url.password or url.query)
    )


def _is_mysql_database(url: URL) -> bool:
    return (
        url.drivername == "mysql+pymysql"
        and bool(url.database)
        and (url.port is None or 1 <= url.port <= _PORT_MAX)
    )


def _parsed(database_url: str) -> URL | None:
    """Parse, or return None. Swallows the parser's error: its message may quote the password."""
    if not database_url.isprintable() or _has_a_raw_at_sign(database_url):
        return None
    try:
        return make_url(database_url)
    except (ArgumentError, ValueError, TypeError):
        return None


def _has_a_raw_at_sign(database_url: str) -> bool:
    """Find an @ after the one that ends the credentials.

    SQLAlchemy ends a password at its first @ and takes the rest for the host, which is then shown.
    """
    after_credentials = re.match(r"(?!sqlite)[\w+]+://([^:/]*(:[^@]*)?@)?", database_url)
    return after_credentials is not None and "@" in database_url[after_credentials.end() :]


def _secret_options(url: URL) -> list[str]:
    """Name the options that are passwords: PyMySQL takes password, passwd and ssl_key_password."""
    return [option for option in url.query if "pass" in option.lower()]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[: _SHOWN_CHARACTERS_MAX - 1] + "…"
