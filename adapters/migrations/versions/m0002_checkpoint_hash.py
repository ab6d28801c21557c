"""Checkpoints have the hash of the log at their position.

Their table belongs to the projections and is created without a migration; this one is for databases
where it existed before. Two servers may run it at once.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

_TABLE = "projection_checkpoints"
_hash = sa.LargeBinary().with_variant(mysql.BINARY(32), "mysql", "mariadb")


def upgrade() -> None:
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table(_TABLE):
        return
    if "hash" not in {column["name"] for column in inspector.get_columns(_TABLE)}:
        op.add_column(_TABLE, sa.Column("hash", _hash, comment="of the log up to there"))
