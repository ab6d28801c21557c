"""Alembic's entry: runs the migrations on the connection that `adapters.log.schema` hands over."""

from alembic import context

from adapters.log.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction is the one there is
)
context.run_migrations()
