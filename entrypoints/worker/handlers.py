"""The handlers that the service's own workers run, as its settings name them."""

from pathlib import Path
from typing import Final

from adapters.settings import Settings
from fairlog_client.handlers.loading import Reserved
from fairlog_client.worker.handler_protocol import HandlerHello

# In the service's environment these hide a user's modules of the same name.
RESERVED: Final = Reserved(
    frozenset({"domain", "adapters", "projections", "entrypoints", "tests"}),
    str(Path(__file__).resolve().parents[2]),
)


def handler_hello(settings: Settings, *, logs_json: bool) -> HandlerHello:
    """Return the hello for the handlers that the settings name."""
    return HandlerHello(
        handlers=settings.handlers,
        has_builtin=settings.builtin_handlers,
        logs_json=logs_json,
        log_level=settings.log_level,
        reserved=RESERVED,
    )
