"""The databases of other tools."""

from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect


def read_revision(url: str, table: str) -> str | None:
    """Return the version of a tool's tables in a database; None: the database has no tables.

    Args:
        url: of the database; the file of SQLite may be missing.
        table: one that the tool's databases have.

    Raises:
        ValueError: there are tables, but not this one.
        SQLAlchemyError: the database cannot be used.
    """
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            if tables and table not in tables:
                raise ValueError(f"its tables are another program's: {table} is not among them")
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
