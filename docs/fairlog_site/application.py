"""The application, composed as a server does it but not started."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from adapters.settings import Settings
from domain.language.identifiers import ServerId
from entrypoints.composition import compose
from entrypoints.http.edge import EdgeApp
from entrypoints.http.forwarding import TrustedProxies
from entrypoints.processes.app import create_app
from entrypoints.runtime.host_names import hosts_of
from entrypoints.worker.handlers import handler_hello
from fairlog_client.worker.handler_pool import HandlerPool

HOST = "127.0.0.1"


@contextmanager
def application() -> Iterator[EdgeApp]:
    """Yield the application of a server with a worker inside. Nothing is opened or started."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=f"sqlite:///{Path(folder) / 'none.db'}")
        with closing(compose(settings)) as fairlog:
            app = create_app(
                fairlog,
                server_id=ServerId("documentation"),
                workers=1,
                executor=HandlerPool(handler_hello(settings, logs_json=True), 1),
                hosts=hosts_of(HOST, ""),
                proxies=TrustedProxies(""),
            )
            assert isinstance(app, EdgeApp)
            yield app
