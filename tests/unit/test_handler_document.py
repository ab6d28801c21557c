"""The module in docs/handlers.md does what the page says."""

import re
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from entrypoints.processes.app import GRACE_SECONDS as SERVER_GRACE_SECONDS
from entrypoints.processes.server import GRACEFUL_SECONDS_MAX
from fairlog_client.handlers.loading import load_handlers
from fairlog_client.worker.attempt import GIVE_UP_SECONDS
from fairlog_client.worker.remote import GRACE_SECONDS

PAGE: Final = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text()


def test_the_example_is_a_module_of_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [source] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "documented_jobs.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    handlers = load_handlers("documented_jobs", has_builtin=False)
    assert set(handlers) == {"notify"}
    assert handlers["notify"].final_exceptions == (KeyError, ValueError)
    assert handlers["notify"].timeout_seconds == 30
    module = ModuleType("documented")
    exec(source, vars(module))  # noqa: S102 (the page of this repository)
    with pytest.raises(module.RateLimitOfTheirs) as raised:
        module.notify(None)
    assert raised.value.retry_in_seconds == 60


def test_the_grace_periods_are_those_of_the_code() -> None:
    assert f"not ended {GIVE_UP_SECONDS:g} seconds later" in PAGE
    assert f"its handlers have {GRACE_SECONDS:g} seconds to end" in PAGE
    assert f"open requests have {GRACEFUL_SECONDS_MAX} seconds" in PAGE
    assert f"the handlers inside {SERVER_GRACE_SECONDS:g}" in PAGE
