"""Database URLs: which are accepted, their several hosts, and how one is shown without its secrets.

`mysql+pymysql://user:password@one:3306,two:3306/name` names several hosts of one database. What
SQLAlchemy parses has one of them.
"""

import re
from collections.abc import Sequence
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

URL_ACCEPTED: Final = (
    "sqlite:///path/to/file.db (a file, without options) or"
    " mysql+pymysql://user:password@host:3306/name (a character like @ or % in the password is"
    " written %40 or %25; mysql:// and mariadb:// mean the same; further hosts follow after commas)"
)

PORT_MAX: Final = 65_535
_AUTHORITY: Final = re.compile(r"(?!sqlite)([\w+]+://[^@/?]*@)([^/?]*)(.*)", re.DOTALL)


def split_hosts(database_url: str) -> list[str]:
    """Return the URL once for each of its hosts, which commas separate."""
    found = _AUTHORITY.fullmatch(database_url)
    if found is None or "@" in found[3]:  # a password with a slash, which SQLAlchemy accepts
        return [database_url]
    before, hosts, after = found.groups()
    return [f"{before}{host}{after}" for host in hosts.split(",")]


def join_hosts(database_urls: Sequence[str]) -> str:
    """Return one URL for URLs that differ in their hosts alone."""
    found = [_AUTHORITY.fullmatch(one) for one in database_urls]
    if found[0] is None:
        return database_urls[0]
    hosts = ",".join(one[2] for one in found if one is not None)
    return f"{found[0][1]}{hosts}{found[0][3]}"


def is_known(database_url: str) -> bool:
    """Return True if Fairlog can use the URL."""
    urls = [_parsed(one) for one in split_hosts(database_url)]
    return all(url is not None and _is_database(url, len(urls)) for url in urls)


def has_password(database_url: str) -> bool:
    """Return True if the URL holds a password. One that cannot be parsed counts as having none."""
    url = _parsed(split_hosts(database_url)[0])
    return url is not None and bool(url.password or _secret_options(url))


def redacted(database_url: str) -> str:
    """Return the URL with its passwords hidden, and nothing of one that cannot be parsed."""
    urls = [_parsed(one) for one in split_hosts(database_url)]
    shown = [_hidden(url) for url in urls if url is not None]
    if len(shown) < len(urls):
        return "(a database URL that cannot be read)"
    return join_hosts(shown)


def _hidden(url: URL) -> str:
    hidden = dict.fromkeys(_secret_options(url), "hidden")
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def _is_database(url: URL, hosts: int) -> bool:
    if _is_sqlite_file(url):
        return True
    is_one_of_several = bool(url.host) and "unix_socket" not in url.query
    has_plain_host = not {",", " "}.intersection(url.host or "")
    return _is_mysql_database(url) and has_plain_host and (hosts == 1 or is_one_of_several)


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
        and (url.port is None or 1 <= url.port <= PORT_MAX)
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
