"""The projections that are kept in the writer's transaction, and how they come to be current."""

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy.engine import Connection

from domain.errors import LogUnavailable
from domain.ports import Projection
from domain.world import Needs, World
from projections import registry
from projections.jobs import JobsProjection
from projections.line import LineProjection
from projections.windows import WindowsProjection


def inline_projections() -> tuple[Projection[Connection], ...]:
    """In the order of loading: the jobs tell which users the line has to know."""
    return (JobsProjection(), WindowsProjection(), LineProjection())


class LiveProjections:
    """The inline projections as the writer sees them, each at its current generation."""

    def __init__(self, projections: Sequence[Projection[Connection]]) -> None:
        self._projections: Final = projections
        self._generations: dict[str, int] = {}

    def refresh(self, connection: Connection) -> None:
        registered = registry.read(connection)
        registry.check_versions(registered, self._projections)
        for projection in self._projections:
            found = registered.get(projection.name)
            if found is None or not found.is_built or found.version != projection.version:
                raise LogUnavailable(
                    f"The projection {projection.name!r} is not built for this release; "
                    "run `fairlog migrate`."
                )
            self._generations[projection.name] = found.generation

    def load(self, connection: Connection, needs: Needs, world: World) -> None:
        self._each(lambda one, at: one.look_ahead(connection, at, needs, world))
        self._each(lambda one, at: one.load(connection, at, needs, world))

    def save(self, connection: Connection, world: World) -> None:
        self._each(lambda one, at: one.save(connection, at, world))

    def _each(self, act: Callable[[Projection[Connection], int], None]) -> None:
        for projection in self._projections:
            act(projection, self._generations[projection.name])
