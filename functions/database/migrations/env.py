"""Alembic's environment: migrates over the connection that `ocf.functions.database.migrate` passes."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
