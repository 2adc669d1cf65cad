"""An SQL query that the hospital's own staff wrote: in a database, or over CSV and Parquet files.

Nothing of the study or the coordinator reaches the database: the query is a text of the site's.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pratique_client.sources.base import TableSource, bad_field
from pratique_client.sources.secret_url import place_of, read_url
from pratique_common.table_files import check_columns

if TYPE_CHECKING:
    from sqlalchemy import URL

_IN_BRACKETS = re.compile(r"\([^()]*\)")
_ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)
_ONE_PLACE = "write one of url, url_file, url_variable and files"


class SqlQuery(TableSource):
    """A query whose columns have the study's names.

    Rows of a patient keep the query's order if it has one (ORDER BY).
    """

    kind: Literal["sql"]
    url: str | None = Field(default=None, description="SQLAlchemy URL without a password")
    url_file: str | None = Field(default=None, description="file of mode 0600 with the URL")
    url_variable: str | None = Field(default=None, description="environment variable with the URL")
    files: Mapping[str, str] | None = Field(
        default=None, min_length=1, description="table → .csv or .parquet file, read by DuckDB"
    )
    query: str | None = Field(default=None, min_length=1)
    query_file: str | None = Field(default=None, min_length=1, description="file with the query")
    root_certificates: str | None = Field(
        default=None, description="CA file: PostgreSQL must then prove its name by TLS"
    )
    timeout_s: float = Field(
        default=3600.0, gt=0, le=86_400, description="longest that reading everything may take"
    )

    @field_validator("url")
    @classmethod
    def _check_no_password(cls, url: str | None) -> str | None:
        from pratique_client.sources.secret_url import holds_password

        if url is not None and holds_password(url):
            raise ValueError("url: holds a password: move the URL into a file and name it url_file")
        return url

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        places = (self.url, self.url_file, self.url_variable, self.files)
        if sum(place is not None for place in places) != 1:
            raise ValueError(_ONE_PLACE)
        if (self.query is None) == (self.query_file is None):
            raise ValueError("write either query or query_file")
        if self.files is not None and self.root_certificates is not None:
            raise ValueError("root_certificates: files are read without a server")
        return self

    def is_ordered(self, site_file: Path) -> bool:
        """Whether the query ends with ORDER BY; those of parts and windows do not count."""
        query, before = self._query(site_file), ""
        while query != before:
            before, query = query, _IN_BRACKETS.sub("", query)
        return _ORDER_BY.search(query) is not None

    def label(self, site_file: Path) -> str:
        """Return the file in which the query stands."""
        return str(site_file.parent / self.query_file if self.query_file else site_file)

    def describe(self, site_file: Path) -> str:
        """Return the database, without user and password, and where the query stands."""
        by = self.query_file or "query"
        if self.files is not None:
            return f"{by} over {', '.join(sorted(self.files.values()))}"
        return f"{by} in {place_of(self._url(site_file))}"

    def names(self, site_file: Path) -> list[str]:
        """Return the names of the query's columns."""
        with closing(self._read(site_file)) as batches:
            return list(next(batches).column_names)

    def batches(self, site_file: Path, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the query's rows."""
        for number, batch in enumerate(self._read(site_file)):
            if number == 0:
                check_columns(batch.column_names, names, self.label(site_file))
            yield batch.select(names)

    def _read(self, site_file: Path) -> Generator[pa.Table, None, None]:
        """Yield batches of all columns; the first is there even if there are no rows."""
        query = self._query(site_file)
        if self.files is not None:
            from pratique_client.sources.duckdb_files import read_files

            return read_files(self.files, query, site_file, timeout_s=self.timeout_s)
        from pratique_client.sources.database import read_database

        certificates = self.root_certificates
        return read_database(
            self._url(site_file),
            query,
            site_file,
            timeout_s=self.timeout_s,
            root_certificates=site_file.parent / certificates if certificates else None,
        )

    def _url(self, site_file: Path) -> "URL":
        return read_url(
            site_file, url=self.url, url_file=self.url_file, url_variable=self.url_variable
        )

    def _query(self, site_file: Path) -> str:
        if self.query is not None:
            text = self.query
        else:
            assert self.query_file is not None
            try:
                text = (site_file.parent / self.query_file).read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                raise bad_field(
                    site_file, "query_file", "cannot be read", "name a file of UTF-8 text"
                ) from None
        text = text.strip().removesuffix(";").rstrip()
        if not text:
            raise bad_field(site_file, "query_file", "is empty", "write a query that selects rows")
        return text
