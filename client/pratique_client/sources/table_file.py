"""A CSV or Parquet file."""

from collections.abc import Sequence
from pathlib import Path

from pratique_common.schema import TableSchema
from pratique_common.table_files import header
from pratique_common.tables import Table, read_table


class TableFile:
    """See ``DataSource``."""

    @staticmethod
    def load(path: Path, schema: TableSchema, *, lacks: Sequence[str]) -> Table:
        """Return the accepted rows of the study's columns; those that it ``lacks`` are missing."""
        return read_table(path, schema, lacks=lacks)

    @staticmethod
    def unused_columns(path: Path, schema: TableSchema) -> list[str]:
        """Return the names of columns that the study does not use."""
        used = {*schema.names, schema.patient_id}
        used |= {schema.visits.order_by} if schema.visits else set()
        return [name for name in header(path) if name not in used]
