"""The settings, read once: flags, else environment, else fairlog.toml, else default.

A wrong value stops the start with one sentence that names the setting as its author wrote it, what
was found and what is accepted. A database URL is the exception: it may hold a password, so no
message and no repr() ever shows it. A value that another source overrides is not looked at.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from msgspec import Meta, Struct, inspect
from msgspec.structs import asdict, replace

from adapters.database_url import URL_ACCEPTED, is_known, redacted
from domain.language.errors import InvalidInput
from domain.language.limits import (
    BACKOFF,
    BASE_SECONDS,
    FACTOR,
    JITTER,
    MAXIMUM_SECONDS,
    RetryPolicy,
)
from domain.language.validation import NEVER_MAX, retry_policy


class SettingsError(ValueError):
    """A setting is wrong. The message is one sentence for the operator and holds no secret."""


class Settings(Struct, frozen=True, kw_only=True):
    """Every setting, checked. Ranges include both ends.

    Each is a flag of `fairlog serve` or `worker`, with its description. Build it with
    `load_settings`; building it directly, as a test may, checks nothing. `database_url` may hold a
    password: show it through `redacted` alone.
    """

    database_url: Annotated[
        str,
        Meta(
            description="sqlite:///PATH (relative to the current directory) or "
            "mysql+pymysql://USER:PASSWORD@HOST:PORT/NAME; further hosts follow after commas, and "
            "the next one is used when one is away or read-only. Better set as "
            "FAIRLOG_DATABASE_URL, where nobody sees the password."
        ),
    ] = "sqlite:///fairlog.db"
    window_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=2_678_400,
            description="The length of a rate-limit window in seconds; windows are aligned to "
            "Unix time 0.",
        ),
    ] = 60
    global_limit: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Submissions per window by all users together; 0: nobody may submit.",
        ),
    ] = 6_000
    user_limit: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Submissions per window by each user; 0: only users with a limit of their "
            "own may submit.",
        ),
    ] = 600
    lease_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400,
            description="How long a claim holds without a heartbeat, in seconds, and so how long "
            "the jobs of a lost worker wait.",
        ),
    ] = 30
    idempotency_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=31_622_400,
            description="How long an idempotency key, explicit or a digest, identifies a job, in "
            "seconds; at least until the job has ended.",
        ),
    ] = 86_400
    deduplicate: Annotated[
        bool,
        Meta(
            description="Whether a submission without an idempotency key that is equal to an open "
            "or done job returns that job, unless it says otherwise itself."
        ),
    ] = True
    max_attempts: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="How many attempts may fail before a job fails; an expired lease counts as "
            "one.",
        ),
    ] = 3
    retry_backoff: Annotated[
        Literal["constant", "linear", "exponential"],
        Meta(
            description="How the delay before the next attempt grows with each failure of a job: "
            "not at all, by retry_base_seconds each time, or by the factor retry_factor."
        ),
    ] = BACKOFF
    retry_base_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=31_622_400,
            description="The delay after the first failure of a job, in seconds.",
        ),
    ] = BASE_SECONDS
    retry_factor: Annotated[
        float,
        Meta(
            ge=1,
            le=100,
            description="What an exponential delay is multiplied by with each further failure.",
        ),
    ] = FACTOR
    retry_maximum_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=31_622_400,
            description="The longest delay before the next attempt, in seconds; "
            "retry_base_seconds, if that is longer.",
        ),
    ] = MAXIMUM_SECONDS
    retry_jitter: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="The part of each delay that chance may take off, so that jobs that failed "
            "together are not tried again together; 0: none, 1: all.",
        ),
    ] = JITTER
    retry_never: Annotated[
        str,
        Meta(
            description="Types of errors after which no attempt follows, such as ValueError or "
            "LeaseLost, separated by commas. Default: none."
        ),
    ] = ""
    size_limit_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**53,
            description="The size that the database is meant to stay below, in bytes. /metrics and "
            "the dashboard say when it will be reached, and `fairlog doctor` warns 30 days "
            "before; nothing is refused. 0: no limit.",
        ),
    ] = 0
    require_keys: Annotated[
        bool,
        Meta(
            description="Require an API key of every request, even before the first one is "
            "created; afterwards one is always required."
        ),
    ] = False
    public_metrics: Annotated[
        bool,
        Meta(
            description="Show /metrics without an API key. Otherwise it needs one as soon as keys "
            "are required."
        ),
    ] = False
    checkpoint_key_file: Annotated[
        str | None,
        Meta(
            description="The file with the key that signs checkpoints of the log, made by `fairlog "
            "audit key`. Without it, /checkpoint is not served."
        ),
    ] = None
    public_checkpoints: Annotated[
        bool,
        Meta(
            description="Show /checkpoint and /tile without an API key. They have no content of "
            "events, but show how many there are, and who knows all of one can recognise it."
        ),
    ] = False
    max_connections: Annotated[
        int,
        Meta(
            ge=10,
            le=100_000,
            description="Open connections. Beyond it, the longest idle ones are closed, then "
            "streams and waiting claims.",
        ),
    ] = 1_000
    keep_alive_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600,
            description="How long a connection stays open between two requests, in seconds; longer "
            "than a proxy keeps its own.",
        ),
    ] = 75
    request_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600,
            description="How long a request may take to arrive, and how long a client may read "
            "nothing of an answer, in seconds.",
        ),
    ] = 60
    bodies_mib: Annotated[
        int,
        Meta(
            ge=16,
            le=65_536,
            description="Memory in MiB for the bodies of requests in progress, all together; the "
            "same again for answers that clients have not read.",
        ),
    ] = 128
    allowed_hosts: Annotated[
        str,
        Meta(
            description="Host names to accept in requests besides loopback names and --host, such "
            "as the one a proxy sends, separated by commas. Default: none."
        ),
    ] = ""
    trusted_proxies: Annotated[
        str,
        Meta(
            description="Addresses and networks (10.0.0.0/8) of proxies, separated by commas. What "
            "they alone say in X-Forwarded-For, -Proto and -Prefix is believed. Default: none."
        ),
    ] = ""
    tls_cert: Annotated[
        str | None,
        Meta(
            description="A PEM file with the server's certificate, followed by those of "
            "intermediate authorities. With it and tls_key the server speaks HTTPS, without them "
            "plain HTTP. A new certificate needs a restart."
        ),
    ] = None
    tls_key: Annotated[
        str | None, Meta(description="A PEM file with the private key of tls_cert.")
    ] = None
    ca_file: Annotated[
        str | None,
        Meta(
            description="A PEM file with the certificate authorities that a server at an https:// "
            "URL may have its certificate from, for `fairlog worker`. Default: the file that "
            "SSL_CERT_FILE names, else public authorities."
        ),
    ] = None
    timeout_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=604_800,
            description="The longest run of an attempt, in seconds, whose job was submitted "
            "without a timeout_seconds; 0: none.",
        ),
    ] = 0
    callback_allow: Annotated[
        str,
        Meta(
            description="Networks (10.1.0.0/16), addresses and host names, separated by commas, "
            "that requests to URLs of customers and operators may go to though their addresses are "
            "not public. Default: none, so requests go to public addresses only."
        ),
    ] = ""
    callback_key_file: Annotated[
        str | None,
        Meta(
            description="The file with the key that all secrets of signed requests are derived "
            "from, as `head -c 32 /dev/urandom | base64` makes it; the same on all servers. "
            "Without it, the server posts no jobs and sends no callbacks."
        ),
    ] = None
    push_slots: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="Jobs that this server posts at once for each kind with a push endpoint; "
            "0: none. It posts none without callback_key_file, with whose key requests are signed.",
        ),
    ] = 16
    callback_slots: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Callbacks that a server sends at once, if it has callback_key_file; 0: "
            "it sends none.",
        ),
    ] = 8
    handlers: Annotated[
        str | None,
        Meta(
            description="A module, or a path ending in .py, whose public functions are kinds of "
            "job. Without it, only the built-in kinds are served."
        ),
    ] = None
    builtin_handlers: Annotated[
        bool, Meta(description="Whether the built-in kinds echo, sleep and fail are served.")
    ] = True
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Log lines of a lower level are left out."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        Meta(
            description="The format of log lines on standard error; auto: text on a terminal, else "
            "JSON."
        ),
    ] = "auto"

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


class Field(Struct, frozen=True):
    """A setting as it is declared."""

    name: str
    description: str
    default: object
    range: tuple[float, float] | None = None  # of a number, both inclusive
    is_whole: bool = True  # of a number: it has no decimals
    choices: tuple[str, ...] = ()  # of a word
    is_switch: bool = False


def _field(declared: inspect.Field) -> Field:
    meta = declared.type
    assert isinstance(meta, inspect.Metadata)
    assert meta.extra_json_schema is not None, declared.name
    description = str(meta.extra_json_schema["description"])
    match meta.type:
        case inspect.IntType(ge=int(lowest), le=int(highest)):
            return Field(declared.name, description, declared.default, (lowest, highest))
        case inspect.FloatType(ge=int() | float() as lowest, le=int() | float() as highest):
            bounds = (lowest, highest)
            return Field(declared.name, description, declared.default, bounds, is_whole=False)
        case inspect.LiteralType():  # whose values are sorted here
            choices = get_args(get_type_hints(Settings)[declared.name])
            return Field(declared.name, description, declared.default, choices=choices)
        case inspect.BoolType():
            return Field(declared.name, description, declared.default, is_switch=True)
        case _:
            return Field(declared.name, description, declared.default)


FIELDS: Mapping[str, Field] = {
    declared.name: _field(declared)
    for declared in inspect.type_info(Settings).fields  # type: ignore[attr-defined]  # a StructType
}

_FLAGS = {"allowed_hosts": "allowed_host", "trusted_proxies": "trusted_proxy"}  # may be repeated

# Variables that are no settings: of clients, of the tests, and those that Kubernetes and Docker
# set for a service of this name.
_OTHER_VARIABLES = re.compile(r"FAIRLOG_(KEY|SERVER|TEST_\w+|(\w+_)?SERVICE_(HOST|PORT(_\w+)?))")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?|\[?[0-9a-f:.]*:[0-9a-f:.]*\]?")
# Not a form of an address like 127.1, which no URL's name would equal.
_HOST_NAME = re.compile(r"(?![0-9.]+$|0x)[a-z0-9_]([a-z0-9._-]{0,252}[a-z0-9])?")
_SHOWN_CHARACTERS_MAX = 60


def load_settings(
    overrides: Mapping[str, object], environ: Mapping[str, str], file: Path | None
) -> Settings:
    """Read every setting from the first source that gives it.

    `overrides` are the flags by field name; None means not given. `environ` gives FAIRLOG_* names:
    an empty value means not given, and one that is no setting is an error. `file` is a TOML file of
    lower-case field names; None, or a file that does not exist, gives nothing, and an unknown key
    in it is an error.

    Raises SettingsError; TypeError if an override is no setting, which is the caller's mistake.
    """
    given = _from_file(file) | _from_environment(environ) | _from_flags(overrides)
    return replace(Settings(), **{field: _checked(field, found) for field, found in given.items()})


def _from_flags(overrides: Mapping[str, object]) -> dict[str, _Given]:
    if unknown := overrides.keys() - FIELDS.keys():
        raise TypeError(f"not a setting: {', '.join(sorted(unknown))}")
    return {
        field: _Given("--" + _FLAGS.get(field, field).replace("_", "-"), value)
        for field, value in overrides.items()
        if value is not None
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    names = {field: f"FAIRLOG_{field.upper()}" for field in FIELDS}
    known = set(names.values())
    for name, value in sorted(environ.items()):
        if not name.startswith("FAIRLOG_") or name in known or not value:
            continue
        if not _OTHER_VARIABLES.fullmatch(name) and not _SERVICE_ADDRESS.match(value):
            raise SettingsError(
                f"{_shown(name)[1:-1]} is not a setting{_suggestion(name, is_variable=True)}"
            )
    # Empty is how shells and Compose files (`${X:-}`) say "not set".
    return {
        field: _Given(name, environ[name]) for field, name in names.items() if environ.get(name)
    }


def _from_file(file: Path | None) -> dict[str, _Given]:
    if file is None or not file.exists():
        return {}
    table = _toml(file)
    for key in table:
        if key not in FIELDS:
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


def _suggestion(key: str, *, is_variable: bool = False) -> str:
    """Return the end of the sentence about an unknown key: what was meant, or all there are."""
    written = key.lower().removeprefix("fairlog_")
    near = difflib.get_close_matches(written, FIELDS, n=1)
    if not near:
        return f", the settings are {', '.join(FIELDS)}."
    return f"; did you mean {f'FAIRLOG_{near[0].upper()}' if is_variable else near[0]}?"


def _checked(field: str, given: _Given) -> str | float | bool:
    match field:
        case "database_url":
            return _database_url(given)
        case "handlers":
            return _module(given)
        case "tls_cert" | "tls_key" | "ca_file" | "checkpoint_key_file" | "callback_key_file":
            return _file(given)
        case "retry_never":
            return _error_types(given)
        case "allowed_hosts":
            return _hosts(given)
        case "trusted_proxies":
            return _networks(given)
        case "callback_allow":
            return _networks_and_names(given)
        case _:
            return _checked_by_type(FIELDS[field], given)


def _checked_by_type(field: Field, given: _Given) -> str | float | bool:
    if field.is_switch:
        return _switch(given)
    if field.choices:
        return _choice(given, field.choices)
    assert field.range is not None, field
    return (_whole_number if field.is_whole else _number)(given, *field.range)


def _choice(given: _Given, choices: Sequence[str]) -> str:
    if isinstance(given.value, str) and (word := given.value.strip().lower()) in choices:
        return word
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be one of {', '.join(choices)}."
    )


def _whole_number(given: _Given, lowest: float, highest: float) -> int:
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


def _number(given: _Given, lowest: float, highest: float) -> float:
    value = given.value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*", value):
        value = float(value)
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and lowest <= value <= highest
    ):
        return float(value)
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be a number from {lowest} to"
        f" {highest}."
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


def _error_types(given: _Given) -> str:
    if isinstance(given.value, str):
        names = tuple(dict.fromkeys(filter(None, map(str.strip, given.value.split(",")))))
        try:
            retry_policy(RetryPolicy(never=names))
            return ",".join(names)
        except InvalidInput:
            pass
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be at most {NEVER_MAX} names of"
        " types of errors, separated by commas."
    )


def _hosts(given: _Given) -> str:
    if isinstance(given.value, str):
        names = [name.strip().lower() for name in given.value.split(",") if name.strip()]
        if names and all(_HOST.fullmatch(name) for name in names):
            return ",".join(names)
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be host names or addresses without"
        " a port, separated by commas."
    )


def _networks(given: _Given) -> str:
    if isinstance(given.value, str):
        try:
            found = [ip_network(one.strip()) for one in given.value.split(",") if one.strip()]
        except ValueError:
            found = []
        if found and all(network.prefixlen for network in found):
            return ",".join(map(str, found))
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be addresses or networks of"
        " proxies, like 10.0.0.7 or 10.0.0.0/8, separated by commas, and not everybody's."
    )


def _networks_and_names(given: _Given) -> str:
    if isinstance(given.value, str):
        parts = [part.strip().lower() for part in given.value.split(",") if part.strip()]
        if parts and all(_is_network(part) or _HOST_NAME.fullmatch(part) for part in parts):
            return ",".join(parts)
    raise SettingsError(
        f"{given.written_as} is {_shown(given.value)}, but must be networks, addresses or host"
        " names, like 10.1.0.0/16 or hooks.internal, separated by commas."
    )


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _database_url(given: _Given) -> str:
    if isinstance(given.value, str):
        text = re.sub(r"^(mysql|mariadb)://", "mysql+pymysql://", given.value.strip())
        if is_known(text):
            return text
    raise SettingsError(
        f"{given.written_as} is not a database URL that Fairlog knows, it must be {URL_ACCEPTED}."
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[: _SHOWN_CHARACTERS_MAX - 1] + "…"
