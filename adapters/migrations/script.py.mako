"""${message}.

Each step does nothing where it has been done: two servers may run it at once.
"""

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
