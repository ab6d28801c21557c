import traceback
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from adapters.database_url import has_password, redacted
from adapters.settings import Settings, SettingsError, load_settings
from entrypoints.cli.serve import serve, worker

SECRET = "hunter2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fairlog.toml"


def refusal(
    flags: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags or {}, environ or {}, file)
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return message


def test_with_nothing_given_every_setting_has_its_documented_default() -> None:
    assert load_settings({}, {}, None) == Settings(
        database_url="sqlite:///fairlog.db",
        window_seconds=60,
        global_limit=6000,
        user_limit=600,
        lease_seconds=30,
        idempotency_seconds=86400,
        max_attempts=3,
        max_connections=1000,
        keep_alive_seconds=75,
        request_seconds=60,
        bodies_mib=128,
        allowed_hosts="",
        trusted_proxies="",
        tls_cert=None,
        tls_key=None,
        ca_file=None,
        handlers=None,
    )


def test_every_variable_of_the_environment_is_read() -> None:
    environ = {
        "FAIRLOG_DATABASE_URL": "mysql+pymysql://fair@db/log",
        "FAIRLOG_WINDOW_SECONDS": "1",
        "FAIRLOG_GLOBAL_LIMIT": "2",
        "FAIRLOG_USER_LIMIT": "3",
        "FAIRLOG_LEASE_SECONDS": "4",
        "FAIRLOG_IDEMPOTENCY_SECONDS": "5",
        "FAIRLOG_MAX_ATTEMPTS": "6",
        "FAIRLOG_RETRY_NEVER": "ValueError, LeaseLost,,ValueError",
        "FAIRLOG_MAX_CONNECTIONS": "10",
        "FAIRLOG_KEEP_ALIVE_SECONDS": "7",
        "FAIRLOG_REQUEST_SECONDS": "8",
        "FAIRLOG_BODIES_MIB": "16",
        "FAIRLOG_ALLOWED_HOSTS": "Jobs.example, 10.0.0.7,[fd00::7]",
        "FAIRLOG_TRUSTED_PROXIES": "10.0.0.7, 10.1.0.0/16,fd00::/8",
        "FAIRLOG_TLS_CERT": "/etc/fairlog/cert.pem",
        "FAIRLOG_TLS_KEY": "key.pem",
        "FAIRLOG_CA_FILE": "ca.pem",
        "FAIRLOG_CALLBACK_ALLOW": "10.1.0.0/16, fd00::7,Hooks.Internal,cafe.de",
        "FAIRLOG_CALLBACK_KEY_FILE": "callback.key",
        "FAIRLOG_HANDLERS": "jobs.images",
    }
    assert load_settings({}, environ, None) == Settings(
        database_url="mysql+pymysql://fair@db/log",
        window_seconds=1,
        global_limit=2,
        user_limit=3,
        lease_seconds=4,
        idempotency_seconds=5,
        max_attempts=6,
        retry_never="ValueError,LeaseLost",
        max_connections=10,
        keep_alive_seconds=7,
        request_seconds=8,
        bodies_mib=16,
        allowed_hosts="jobs.example,10.0.0.7,[fd00::7]",
        trusted_proxies="10.0.0.7/32,10.1.0.0/16,fd00::/8",
        tls_cert="/etc/fairlog/cert.pem",
        tls_key="key.pem",
        ca_file="ca.pem",
        callback_allow="10.1.0.0/16,fd00::7,hooks.internal,cafe.de",
        callback_key_file="callback.key",
        handlers="jobs.images",
    )


@pytest.mark.parametrize("hosts", ["http://jobs.example", "a b", "jobs.example:80", ",", "*"])
def test_what_is_no_name_of_a_host_is_refused(hosts: str) -> None:
    message = refusal(environ={"FAIRLOG_ALLOWED_HOSTS": hosts})
    assert message.startswith("FAIRLOG_ALLOWED_HOSTS is ")
    assert "separated by commas" in message


@pytest.mark.parametrize(
    "proxies", ["proxy.example", "10.0.0.1/8", "10.0.0.7:80", ",", "*", "0.0.0.0/0", "::/0"]
)
def test_what_is_no_address_of_a_proxy_is_refused(proxies: str) -> None:
    assert refusal({"trusted_proxies": proxies}).startswith(f"--trusted-proxy is {proxies!r}, ")


@pytest.mark.parametrize("allowed", ["10.0.0.1/8", "127.1", "0x7f.1", "a b", "h:80", ",", "*"])
def test_what_is_no_network_or_name_is_refused(allowed: str) -> None:
    message = refusal(environ={"FAIRLOG_CALLBACK_ALLOW": allowed})
    assert message.startswith(f"FAIRLOG_CALLBACK_ALLOW is {allowed!r}, but must be networks")


@pytest.mark.parametrize("types", ["x" * 256, ",".join(map(str, range(21)))])
def test_what_are_no_types_of_errors_is_refused(types: str) -> None:
    assert refusal(environ={"FAIRLOG_RETRY_NEVER": types}).endswith(
        "must be at most 20 names of types of errors, separated by commas."
    )


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(file: Path) -> None:
    file.write_text("window_seconds = 1\nglobal_limit = 1\nuser_limit = 1\n")
    environ = {"FAIRLOG_WINDOW_SECONDS": "2", "FAIRLOG_GLOBAL_LIMIT": "2"}
    flags = {"window_seconds": 3, "global_limit": None}

    settings = load_settings(flags, environ, file)

    assert (settings.window_seconds, settings.global_limit, settings.user_limit) == (3, 2, 1)


def test_a_wrong_value_that_is_overridden_is_not_looked_at() -> None:
    environ = {"FAIRLOG_USER_LIMIT": "many"}
    assert load_settings({"user_limit": 5}, environ, None).user_limit == 5


@pytest.mark.parametrize(
    ("written", "value"),
    [("on", True), ("TRUE", True), ("1", True), ("off", False), (" no ", False), ("0", False)],
)
def test_the_built_in_kinds_are_a_switch(written: str, *, value: bool) -> None:
    environ = {"FAIRLOG_BUILTIN_HANDLERS": written}
    assert load_settings({}, environ, None).builtin_handlers is value
    assert load_settings({"builtin_handlers": not value}, environ, None).builtin_handlers != value


def test_a_switch_that_is_neither_on_nor_off_is_refused(file: Path) -> None:
    file.write_text("builtin_handlers = 2\n")
    assert "must be on or off" in refusal(file=file)
    assert "FAIRLOG_BUILTIN_HANDLERS is 'maybe'" in refusal(
        environ={"FAIRLOG_BUILTIN_HANDLERS": "maybe"}
    )


def test_a_file_that_does_not_exist_gives_nothing(file: Path) -> None:
    assert load_settings({}, {}, file) == Settings()


def test_an_empty_variable_is_not_given(file: Path) -> None:
    file.write_text('handlers = "jobs"\n')
    environ = {"FAIRLOG_HANDLERS": "", "FAIRLOG_USER_LIMIT": ""}

    settings = load_settings({}, environ, file)

    assert (settings.handlers, settings.user_limit) == ("jobs", 600)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FAIRLOG_USER_LIMITS", "FAIRLOG_USER_LIMIT"),
        ("FAIRLOG_DATABASE", "FAIRLOG_DATABASE_URL"),
        ("FAIRLOG_LOGLEVEL", "FAIRLOG_LOG_LEVEL"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_likely_one(name: str, meant: str) -> None:
    assert refusal(environ={name: "1"}) == f"{name} is not a setting; did you mean {meant}?"


def test_a_variable_like_no_other_is_told_all_there_are() -> None:
    assert refusal(environ={"FAIRLOG_PORT": "8000"}).startswith(
        "FAIRLOG_PORT is not a setting, the settings are database_url, window_seconds,"
    )


def test_a_word_is_one_of_those_that_are_accepted() -> None:
    assert load_settings({}, {"FAIRLOG_LOG_LEVEL": "Debug"}, None).log_level == "debug"
    assert refusal(environ={"FAIRLOG_LOG_LEVEL": "loud"}) == (
        "FAIRLOG_LOG_LEVEL is 'loud', but must be one of debug, info, warning, error."
    )


def test_each_setting_is_a_flag() -> None:
    flags = {parameter.name for parameter in [*serve.params, *worker.params]}
    assert flags >= set(Settings.__struct_fields__)


def test_variables_of_other_programs_are_ignored() -> None:
    environ = {
        "FAIRLOG_TEST_DATABASE_URL": "nonsense",
        "FAIRLOG_KEY": "nonsense",
        "FAIRLOG_SERVER": "http://127.0.0.1:8000",
        "FAIRLOG_USER_LIMITS": "",
        "FAIRLOG_SERVICE_HOST": "10.0.0.1",
        "FAIRLOG_SERVICE_PORT_HTTP": "8000",
        "FAIRLOG_DB_SERVICE_HOST": "10.0.0.2",
        "FAIRLOG_PORT": "tcp://10.0.0.1:8000",
        "FAIRLOG_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "USER_LIMIT": "1",
        "fairlog_user_limit": "1",
    }
    assert load_settings({}, environ, None) == Settings()


def test_a_flag_that_is_no_setting_is_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="port"):
        load_settings({"port": 8000}, {}, None)


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "name"),
    [
        ({"lease_seconds": 0}, {}, "", "--lease-seconds"),
        ({}, {"FAIRLOG_LEASE_SECONDS": "0"}, "", "FAIRLOG_LEASE_SECONDS"),
        ({}, {}, "lease_seconds = 0", "lease_seconds in "),
    ],
)
def test_a_wrong_value_is_named_as_its_author_wrote_it(
    file: Path, flags: dict[str, object], environ: dict[str, str], toml: str, name: str
) -> None:
    file.write_text(toml)

    message = refusal(flags, environ, file)

    assert message.startswith(name)
    assert message.endswith("but must be a whole number from 1 to 86400.")
    assert (str(file) in message) == bool(toml)


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("window_seconds", 1, 2_678_400),
        ("global_limit", 0, 1_000_000_000),
        ("user_limit", 0, 1_000_000_000),
        ("lease_seconds", 1, 86_400),
        ("idempotency_seconds", 1, 31_622_400),
        ("max_attempts", 1, 1_000),
    ],
)
def test_a_number_may_be_at_either_end_of_its_range_and_not_beyond(
    field: str, lowest: int, highest: int
) -> None:
    for inside in (lowest, highest):
        assert getattr(load_settings({field: inside}, {}, None), field) == inside
    for outside in (lowest - 1, highest + 1):
        assert f"from {lowest} to {highest}" in refusal({field: outside})


@pytest.mark.parametrize("value", ["x", "1.5", "6_000", "٣", "1e3", "0x10", " ", "9" * 5000])
def test_a_variable_that_is_no_whole_number_is_refused_and_shown_in_short(value: str) -> None:
    message = refusal(environ={"FAIRLOG_USER_LIMIT": value})

    assert repr(value)[:50] in message
    assert len(message) < 200


@pytest.mark.parametrize("toml", ["true", "1.5", "[60]", '"sixty"', "2024-01-01"])
def test_a_file_value_that_is_no_whole_number_is_refused(file: Path, toml: str) -> None:
    file.write_text(f"user_limit = {toml}\n")
    assert refusal(file=file).startswith("user_limit in ")


def test_a_number_may_have_blanks_around_it() -> None:
    assert load_settings({}, {"FAIRLOG_USER_LIMIT": " 7\n"}, None).user_limit == 7


@pytest.mark.parametrize("value", ["", "  ", 3, ["jobs"]])
def test_handlers_are_the_name_of_a_module(value: object) -> None:
    assert refusal({"handlers": value}).startswith("--handlers is ")


def test_an_unknown_key_of_the_file_is_refused_with_the_likely_one(file: Path) -> None:
    file.write_text("windows_second = 60\n")
    assert refusal(file=file).endswith("is not a setting; did you mean window_seconds?")


def test_a_key_written_like_a_variable_is_told_the_right_spelling(file: Path) -> None:
    file.write_text("FAIRLOG_USER_LIMIT = 60\n")
    assert refusal(file=file).endswith("did you mean user_limit?")


def test_a_key_like_no_other_is_told_all_there_are(file: Path) -> None:
    file.write_text("[zzz]\nuser_limit = 60\n")
    assert "the settings are database_url, window_seconds," in refusal(file=file)


@pytest.mark.parametrize(
    "content",
    [
        b'database_url = "mysql://u:hunter2@h/d\n',
        b'database_url = "mysql://u:hunter2@h/d\xff"\n',
        b'database_url = "mysql://u:hunter2@h/d"\ndatabase_url = "mysql://u:hunter2@h/d"\n',
    ],
    ids=["unfinished", "not UTF-8", "twice"],
)
def test_a_file_that_is_no_toml_is_refused_without_a_word_of_it(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert str(file) in refusal(file=file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(file=tmp_path) == f"{tmp_path} cannot be read (Is a directory)."


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///fairlog.db",
        "sqlite:///data/fair log@home.db",
        "sqlite:////var/lib/fairlog.db",
        "mysql+pymysql://user:password@host:3306/name",
        "mysql+pymysql://user:p%40ss%2Fword@host/name?ssl_ca=/etc/ca.pem",
        "mysql+pymysql://user@[::1]:3306/name",
        "mysql+pymysql:///name?unix_socket=/run/mysqld.sock",
        "mysql+pymysql://user:password@one:3306,two,[::1]:3307/name?ssl_ca=/etc/ca.pem",
    ],
)
def test_a_database_url_of_a_known_form_is_kept_as_it_is(url: str) -> None:
    assert load_settings({"database_url": url}, {}, None).database_url == url


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+pymysql"])
def test_every_way_to_say_mysql_means_pymysql(scheme: str) -> None:
    settings = load_settings({"database_url": f"{scheme}://u:p@h:3306/d?charset=utf8mb4"}, {}, None)
    assert settings.database_url == "mysql+pymysql://u:p@h:3306/d?charset=utf8mb4"


UNUSABLE = [
    "",
    "hunter2",
    "fairlog.db",
    "sqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "sqlite://hunter2.db",
    "sqlite:///hunter2.db?mode=memory&uri=true",
    "sqlite+aiosqlite:///hunter2.db",
    "postgresql://u:hunter2@h/d",
    "mysql+mysqldb://u:hunter2@h/d",
    "mysql+pymysql://u:hunter2@h",
    "mysql+pymysql://u:hunter2@h/",
    "mysql+pymysql://u:hunter2@h:/d",
    "mysql+pymysql://u:hunter2@h:port/d",
    "mysql+pymysql://u:hunter2@h:0/d",
    "mysql+pymysql://u:hunter2@h:65536/d",
    "mysql+pymysql://u:hunter2\n@h/d",
    "mysql+pymysql://u:hunter2@one,/d",
    "mysql+pymysql://u:3,hunter2/d",
    "mysql+pymysql://u:p/hunter2@one,two/d",
    "mysql+pymysql://u:hunter2@one, two/d",
    "mysql+pymysql://u:hunter2@one,two/d?unix_socket=/run/mysqld.sock",
    "mysql+pymysql://u:hunter2@one,two:port/d",
    "mysql+pymysql://u:hunter2@one,v:p@two/d",
    "mysql+pymysql://u:p@hunter2@h/d",
    "mysql+pymysql://u:p@hunter2:x@h/d",
    "mysql+pymysql://u:p@x:hunter2@h/d",
    "mysql+pymysql://u:p@x/hunter2@h/d",
    "mysql+pymysql://u:p@x?hunter2@h/d",
]


@pytest.mark.parametrize("url", UNUSABLE)
def test_any_other_database_url_is_refused_without_a_word_of_it(url: str) -> None:
    message = refusal({"database_url": url})

    assert message.startswith("--database-url is not a database URL")
    assert "sqlite:///path" in message
    assert "mysql+pymysql://" in message


def test_a_database_url_that_is_no_text_is_refused_without_a_word_of_it(file: Path) -> None:
    file.write_text('database_url = ["mysql://u:hunter2@h/d"]\n')
    assert refusal(file=file).startswith("database_url in ")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///fairlog.db", False),
        ("mysql+pymysql://u@h/d", False),
        ("mysql+pymysql://u:@h/d", False),
        ("mysql+pymysql://u:p@h/d", True),
        ("mysql://u:p@h/d", True),
        ("mysql://u@h/d?password=p", True),
        ("mysql://u@h/d?passwd=p", True),
        ("nonsense", False),
    ],
)
def test_a_password_in_a_url_is_noticed(url: str, *, expected: bool) -> None:
    assert has_password(url) is expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///fairlog.db", "sqlite:///fairlog.db"),
        ("mysql+pymysql://u:hunter2@h:3306/d", "mysql+pymysql://u:***@h:3306/d"),
        ("mysql+pymysql://u@h/d?passwd=hunter2", "mysql+pymysql://u@h/d?passwd=hidden"),
        (
            "mysql+pymysql://u:hunt,er2@one:3306,two/d",
            "mysql+pymysql://u:***@one:3306,two/d",
        ),
    ],
)
def test_a_redacted_url_hides_the_password_alone(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize("url", ["hunter2", *(url for url in UNUSABLE if "@" in url)])
def test_a_redacted_url_shows_no_password_of_a_mistyped_one(url: str) -> None:
    assert SECRET not in redacted(url)


def test_settings_can_be_printed_and_logged_without_the_password() -> None:
    settings = Settings(database_url="mysql+pymysql://u:hunter2@h/d")

    for shown in (repr(settings), str(settings), pretty_repr(settings)):
        assert SECRET not in shown
        assert "mysql+pymysql://u:***@h/d" in shown
