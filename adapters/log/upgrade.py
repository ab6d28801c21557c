"""Migrations by Alembic, which takes a tenth of a second to import: only where one is due."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from adapters.log.schema import RevisionChanged
from domain.language.errors import FairlogError


def upgrade(connection: Connection, found: str | None) -> None:
    """Run the migrations after `found`, the stored revision.

    Raises `FairlogError` if no migration of this release has that revision, and `RevisionChanged`.
    """
    config = _config()
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise FairlogError(
            f"The database was migrated by a newer release (schema {found}); install that release "
            "here too."
        )
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise RevisionChanged from error


def newest_revision() -> str | None:
    """Return the revision of the newest migration among the files."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
