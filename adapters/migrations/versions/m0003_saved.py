"""The head row names the position that the rows of the inline projections stand at.

Earlier releases write these rows with each batch, and stop at the new format. Two servers may run
this migration at once.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    columns = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("log_head")}
    if "saved" not in columns:
        op.add_column(
            "log_head",
            sa.Column(
                "saved",
                sa.BigInteger,
                nullable=False,
                server_default="0",
                comment="position of the projections' rows",
            ),
        )
    op.execute("UPDATE log_head SET saved = position, format = 4 WHERE format < 4")
