"""Data sources by the name a site file gives them: a new one is one file and one line here."""

from pratique_client.sources.base import DataSource
from pratique_client.sources.table_file import TableFile

DATA_SOURCES: dict[str, type[DataSource]] = {
    "table_file": TableFile,
}
