"""One table from every source: the same values, the same hash; and what each refuses."""

import logging
import sqlite3
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from pratique_client.approval import approve
from pratique_client.checks import run_checks
from pratique_client.patients import SitePatients, load_patients
from pratique_client.site import load_site
from pratique_client.sources.values import arrow_table
from pratique_common.errors import InvalidFileError
from pratique_common.signing import create_key, public_hex
from pratique_common.tables import Table, check_batches
from tests.client.phantoms import rows, site_of, study_of, write_files
from tests.client.postgres import OWNER, PASSWORD, Postgres, postgres, self_signed

STUDY = study_of()
ALL = "SELECT * FROM visits"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        engine = create_engine(running.url(OWNER))
        with engine.begin() as owner:
            owner.exec_driver_sql(
                "CREATE TABLE visits (patient text, age smallint, marker numeric(9, 3), sex text, "
                "ward text, seen timestamp, at time, alive boolean, not_used text)"
            )
            owner.exec_driver_sql(
                "INSERT INTO visits VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [tuple(row.values()) for row in rows().to_pylist()],
            )
            owner.exec_driver_sql(f"CREATE ROLE pratique LOGIN PASSWORD '{PASSWORD}'")
            owner.exec_driver_sql("GRANT SELECT ON visits TO pratique")
            owner.exec_driver_sql("CREATE TABLE secrets (a int)")
            owner.exec_driver_sql("GRANT INSERT ON visits TO pratique")
        engine.dispose()
        yield running


def write_sqlite(folder: Path) -> None:
    cells = rows()
    for name in ("seen", "at"):
        cells = cells.set_column(cells.column_names.index(name), name, cells[name].cast("string"))
    alive = pa.array(["true" if value else "false" for value in cells["alive"].to_pylist()])
    cells = cells.set_column(cells.column_names.index("alive"), "alive", alive)
    (folder / "rows.db").unlink(missing_ok=True)
    with sqlite3.connect(folder / "rows.db") as database:
        database.execute(f"CREATE TABLE visits ({', '.join(cells.column_names)})")
        marks = ", ".join("?" * cells.num_columns)
        values = [tuple(row.values()) for row in cells.to_pylist()]
        database.executemany(f"INSERT INTO visits VALUES ({marks})", values)


SOURCES = {
    "csv": 'kind = "table_file"\npath = "../rows.csv"',
    "parquet": 'kind = "table_file"\npath = "../rows.parquet"',
    "duckdb, csv": f'kind = "sql"\nfiles = {{ visits = "../rows.csv" }}\nquery = "{ALL}"',
    "duckdb, parquet": f'kind = "sql"\nfiles = {{ visits = "../rows.parquet" }}\nquery = "{ALL}"',
    "sqlite": f'kind = "sql"\nurl = "sqlite:///../rows.db"\nquery = "{ALL};"',
    "another order": 'kind = "sql"\nurl = "sqlite:///../rows.db"\n'
    'query = "SELECT * FROM visits ORDER BY ward, age, seen"',
}


def load(folder: Path, source: str) -> SitePatients:
    write_files(folder, rows())
    write_sqlite(folder)
    return load_patients(site_of(folder / "site", source), STUDY)


def assert_same(found: SitePatients, expected: SitePatients) -> None:
    assert found.snapshot == expected.snapshot
    assert found.commitment(b"salt") == expected.commitment(b"salt")
    assert found.rows.patients.tolist() == expected.rows.patients.tolist()
    for name, values in expected.rows.columns.items():
        assert found.rows.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(found.rows.columns[name], values)


@pytest.mark.parametrize("kind", list(SOURCES)[1:])
def test_the_same_table_gives_the_same_values_from_every_source(tmp_path: Path, kind: str) -> None:
    assert_same(load(tmp_path, SOURCES[kind]), load(tmp_path, SOURCES["csv"]))


@pytest.mark.parametrize("kind", list(SOURCES)[1:])
def test_the_same_rows_give_the_same_hash_where_they_are_no_visits(
    tmp_path: Path, kind: str
) -> None:
    write_files(tmp_path, rows())
    write_sqlite(tmp_path)
    study = study_of(visits=None, max_rows_per_patient=3)
    found, expected = (
        load_patients(site_of(tmp_path / "site", SOURCES[name]), study) for name in (kind, "csv")
    )
    assert_same(found, expected)


def test_postgres_gives_the_same_values(tmp_path: Path, server: Postgres) -> None:
    secret = tmp_path / "database.url"
    secret.write_text(server.url() + "\n")
    secret.chmod(0o600)
    source = f'kind = "sql"\nurl_file = "../database.url"\nquery = "{ALL}"'
    assert_same(load(tmp_path, source), load(tmp_path, SOURCES["csv"]))


def test_members_and_hold_out_are_parts_of_everybody(tmp_path: Path) -> None:
    patients = load(tmp_path, SOURCES["csv"])
    columns, owners, is_member = patients.everybody()
    assert len(patients.members.patients) + len(patients.holdout.patients) == len(owners)
    assert set(patients.members.patients) & set(patients.holdout.patients) == set()
    names = np.unique(owners.astype(str))
    assert set(names[is_member]) == set(patients.members.patients)
    assert np.shares_memory(patients.members.columns["age"], columns["age"])
    assert np.bincount(np.unique(owners.astype(str), return_inverse=True)[1]).max() == 2


def _checked(table: pa.Table, cuts: list[int], *, ordered: bool = True) -> Table:
    ends = sorted({0, *(cut % (table.num_rows + 1) for cut in cuts), table.num_rows})
    parts = [table.slice(a, b - a) for a, b in pairwise(ends)]
    return check_batches(parts, STUDY.data, source="x", patient_id="patient", order_by="seen",
                         ordered=ordered)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(min_value=0, max_value=200), max_size=6), seed=st.integers())
def test_neither_batches_nor_the_order_of_rows_matter(cuts: list[int], seed: int) -> None:
    table = rows()
    whole, parts = _checked(table, []), _checked(table, cuts)
    order = np.random.default_rng(seed % 2**32).permutation(table.num_rows)
    one, other = _checked(table, [], ordered=False), _checked(table.take(order), [], ordered=False)
    for first, second in ((whole, parts), (one, other)):
        for name, values in first.columns.items():
            np.testing.assert_array_equal(second.columns[name], values)
    assert whole.patients.tolist() == parts.patients.tolist()


def test_numbers_are_the_same_however_they_are_stored() -> None:
    """0.1 as a 32-bit float or a decimal is the 0.1 of a text; -9 and -9.00 are one code."""
    schema = study_of(
        visits=None,
        columns=[
            {"name": "marker", "type": "numeric", "lower": 0, "upper": 1, "missing": True,
             "missing_values": ["", "-9"]},
            *COLUMN_PAIR,
        ],
        target=None,
    ).data  # fmt: skip
    texts = pa.array(["0.1", "0.30000000000000004", "-9.00", ""])
    forms = [
        texts,
        pa.array([0.1, 0.30000000000000004, -9, None]),
        pa.array(["0.1", "0.30000000000000004", "-9.00", None]).cast(pa.decimal128(30, 20)),
    ]
    for cells in forms:
        table = pa.table({"patient": pa.array(["a", "b", "c", "d"]), "marker": cells,
                          "sex": pa.array(["male"] * 4)})  # fmt: skip
        found = check_batches([table], schema, source="x", patient_id="patient")
        assert found.columns["marker"][:2].tolist() == [0.1, 0.30000000000000004]
        assert np.isnan(found.columns["marker"][2:]).all()
    short = pa.table({"patient": pa.array(["a", "b"]), "sex": pa.array(["male"] * 2),
                      "marker": pa.array([0.1, float("nan")], pa.float32())})  # fmt: skip
    found = check_batches([short], schema, source="x", patient_id="patient")
    assert found.columns["marker"][0] == 0.1
    assert np.isnan(found.columns["marker"][1])


COLUMN_PAIR = [{"name": "sex", "type": "categorical", "categories": ["male", "female"]}]


def test_values_of_drivers_read_like_texts_of_files() -> None:
    import datetime
    import decimal
    import uuid

    zone = datetime.timezone(datetime.timedelta(hours=2))
    cells = {
        "number": (1, None), "big": (2**70, 1), "mixed": (1, "one"), "flag": (True, None),
        "exact": (decimal.Decimal("1.50"), None), "id": (uuid.UUID(int=5), None),
        "moment": (datetime.datetime(2020, 1, 2, 3, 4, tzinfo=zone), None),
        "day": (datetime.date(2020, 1, 2), None), "time": (datetime.time(8, 30), None),
        "nothing": (None, None), "list": ([1], None), "bytes": (b"x", None),
    }  # fmt: skip
    table = arrow_table(list(cells), list(zip(*cells.values(), strict=True)))
    said = {name: table[name].to_pylist()[0] for name in cells}
    assert said["number"] == 1
    assert (said["big"], said["mixed"], said["flag"]) == (str(2**70), "1", "true")
    assert (said["exact"], said["id"]) == ("1.50", str(uuid.UUID(int=5)))
    assert said["moment"] == "2020-01-02T03:04:00"  # what the clock showed there
    assert (said["day"], said["time"]) == ("2020-01-02", "08:30:00")
    for name in ("list", "bytes"):
        assert pa.types.is_nested(table[name].type)


SECRET = "marked-XYZZY"


def refused(folder: Path, source: str, *words: str) -> None:
    """Check that loading fails in one sentence, without a value of a record or a password."""
    with pytest.raises(InvalidFileError) as caught:
        load(folder, source)
    text = str(caught.value)
    for word in words:
        assert word in text
    assert text.count("\n") == 0
    for secret in (SECRET, PASSWORD, "p-0", "Herz"):
        assert secret not in text
    assert caught.value.__cause__ is None


FILES = 'files = { visits = "../rows.csv" }'
LITE = 'url = "sqlite:///../rows.db"'


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('kind = "sql"\nquery = "x"',
         ["source: write one of url, url_file, url_variable and files"]),
        (f'kind = "sql"\n{FILES}\n{LITE}\nquery = "x"', ["url, url_file, url_variable and files"]),
        (f'kind = "sql"\n{FILES}', ["either query or query_file"]),
        ('kind = "excel"\npath = "x"',
         ["source: unknown 'kind'; choose one of 'table_file', 'sql', 'fhir', 'image_folder', "
          "'dicom', 'nifti'."]),
        ('path = "x.csv"', ["source: 'kind' is missing; add it"]),
        (f'kind = "sql"\n{FILES}\nquery = "x"\nuser = "me"', ["user", "unknown field"]),
        ('kind = "sql"\nurl = "sqlite:///x"\nquery = "x"\ntimeout_s = 0', ["timeout_s"]),
        (f'kind = "sql"\nurl = "postgresql://me:{PASSWORD}@h/d"\nquery = "x"',
         ["source.url: holds a password", "url_file"]),
        (f'kind = "sql"\nurl = "postgresql://h/d?password={PASSWORD}"\nquery = "x"',
         ["holds a password"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT patient, age FROM visits"',
         ["site.toml", "column 'marker'", "missing"]),
        (f'kind = "sql"\n{LITE}\nquery = "SELECT patient, age FROM visits"',
         ["column 'marker'", "missing"]),
        (f'kind = "sql"\n{LITE}\nquery = "SELECT *, age FROM visits"',
         ["column 'age'", "stands twice"]),
        (f'kind = "sql"\n{LITE}\nquery = "SELECT * FROM visits WHERE false"', ["no rows"]),
        (f'kind = "sql"\n{LITE}\nquery_file = "no.sql"', ["source.query_file", "cannot be read"]),
        ('kind = "sql"\nurl = "sqlite:///no.db"\nquery = "x"', ["source.url", "no file"]),
        ('kind = "sql"\nurl = "sqlite:///../rows.csv"\nquery = "SELECT * FROM visits"',
         ["source.query", "no SQLite database"]),
        (f'kind = "sql"\n{LITE}\nquery = "DELETE FROM visits"', ["source.query", "writes"]),
        (f'kind = "sql"\n{LITE}\nquery = "SELEC 1"', ["source.query"]),
        ('kind = "sql"\nurl = "nonsense"\nquery = "SELECT 1"', ["source.url", "not the URL"]),
        ('kind = "sql"\nurl = "oracle+none://h/d"\nquery = "SELECT 1"', ["no driver"]),
        ('kind = "sql"\nurl_variable = "NO_SUCH"\nquery = "SELECT 1"', ["NO_SUCH is not set"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT * FROM \'/etc/passwd\'"', ["files"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT * FROM read_text(\'/etc/passwd\')"',
         ["source.query", "PermissionException"]),
        (f'kind = "sql"\n{FILES}\nquery = "COPY visits TO \'x.csv\'"', ["single SELECT"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT 1; SELECT 2"', ["single SELECT"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT"', ["source.query"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT nope FROM visits"', ["source.query", "column"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT CAST(not_used AS INT) AS age FROM visits"',
         ["TRY_CAST"]),
        ('kind = "sql"\nfiles = { visits = "../no.csv" }\nquery = "SELECT 1"', ["no such file"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT * REPLACE (\'x\' AS age) FROM visits"',
         ["column 'age'", "outside the study's domain"]),
        (f'kind = "sql"\n{FILES}\nquery = "SELECT * REPLACE ([1] AS age) FROM visits"',
         ["column 'age'", "cannot be read"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(
    tmp_path: Path, source: str, words: list[str]
) -> None:
    refused(tmp_path, source, *words)


def test_a_query_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    slow = "SELECT count(*) AS age FROM range(100000000) a, range(100000) b"
    forever = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    begin = time.monotonic()
    for place, query in ((FILES, slow), (LITE, forever)):
        source = f'kind = "sql"\n{place}\ntimeout_s = 0.3\nquery = "{query}"'
        refused(tmp_path, source, "source.query", "timeout_s")
    assert time.monotonic() - begin < 20


def test_a_query_leaves_nothing_in_the_sites_folder(tmp_path: Path) -> None:
    load(tmp_path, SOURCES["duckdb, csv"])
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == [
        "site.toml",
        "split.secret",
    ]


def test_a_url_file_must_be_ours_alone(tmp_path: Path) -> None:
    secret = tmp_path / "database.url"
    secret.write_text(f"sqlite:///{SECRET}.db")
    secret.chmod(0o640)
    source = f'kind = "sql"\nurl_file = "../database.url"\nquery = "{ALL}"'
    refused(tmp_path, source, "source.url_file", "chmod 600")
    refused(tmp_path, source.replace("database.url", "no.url"), "source.url_file", "cannot be read")


def test_a_url_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDW_URL", f"sqlite:///{tmp_path}/rows.db")
    source = f'kind = "sql"\nurl_variable = "CDW_URL"\nquery = "{ALL}"'
    assert_same(load(tmp_path, source), load(tmp_path, SOURCES["csv"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "wrong"}, ["source.url", "user or password"]),
        ({"database": "nope"}, ["source.url", "no such database"]),
        ({"query": "INSERT INTO visits SELECT * FROM visits RETURNING *"}, ["source.query"]),
        ({"query": "SELECT 1; COMMIT; INSERT INTO visits SELECT * FROM visits"},
         ["source.query", "read-only"]),
        ({"query": "SELECT * FROM nope"}, ["source.query", "table that is not there"]),
        ({"query": "SELECT nope FROM visits"}, ["source.query", "column that is not there"]),
        ({"query": "SELECT * FROM secrets"}, ["source.query", "grant SELECT"]),
        ({"query": "SELECT CAST(not_used AS int) FROM visits"}, ["source.query"]),
        ({"query": "SELECT * FROM visits, pg_sleep(60)", "more": "timeout_s = 0.5"},
         ["source.query", "timeout_s"]),
        ({"more": 'root_certificates = "no.crt"'}, ["source.root_certificates"]),
    ],
)  # fmt: skip
def test_postgres_refuses_in_one_sentence_and_logs_nothing(
    tmp_path: Path,
    server: Postgres,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    change: dict[str, str],
    words: list[str],
) -> None:
    secret = tmp_path / "database.url"
    place = {k: v for k, v in change.items() if k in ("password", "database")}
    secret.write_text(server.url(**place))
    secret.chmod(0o600)
    query, more = change.get("query", ALL), change.get("more", "")
    source = f'kind = "sql"\nurl_file = "../database.url"\nquery = "{query}"\n{more}'
    with caplog.at_level(logging.DEBUG):
        refused(tmp_path, source, *words)
    said = caplog.text + "".join(capfd.readouterr())
    assert SECRET not in said and PASSWORD not in said and "visits" not in said
    engine = create_engine(server.url(OWNER))
    with engine.connect() as owner:
        count = owner.exec_driver_sql("SELECT count(*) FROM visits").scalar()
    engine.dispose()
    assert count == rows().num_rows


def test_a_server_must_prove_its_name_where_certificates_are_given(
    tmp_path: Path, server: Postgres
) -> None:
    secret = tmp_path / "database.url"
    secret.write_text(server.url())
    secret.chmod(0o600)
    source = (
        f'kind = "sql"\nurl_file = "../database.url"\nquery = "{ALL}"\nroot_certificates = "{{}}"'
    )
    assert load(tmp_path, source.format(server.certificate)).rows.columns
    other, _ = self_signed(tmp_path)
    refused(tmp_path, source.format(other), "source.root_certificates", "does not prove its name")
    secret.write_text(server.url().replace("127.0.0.1", "localhost"))
    refused(tmp_path, source.format(server.certificate), "does not prove its name")


def test_a_log_of_everything_holds_no_row(
    tmp_path: Path, server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "database.url"
    secret.write_text(server.url())
    secret.chmod(0o600)
    source = f'kind = "sql"\nurl_file = "../database.url"\nquery = "{ALL}"'
    with caplog.at_level(logging.DEBUG):
        load(tmp_path, source)
    assert "Herz" not in caplog.text and PASSWORD not in caplog.text and "p-0" not in caplog.text


def test_an_unreachable_host_is_named(tmp_path: Path) -> None:
    source = f'kind = "sql"\nurl = "postgresql+pg8000://me@127.0.0.1:1/d"\nquery = "{ALL}"'
    refused(tmp_path, source, "source.url", "127.0.0.1:1 cannot be reached")


def test_what_people_call_a_source_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDW_URL", f"postgresql+pg8000://me:{PASSWORD}@db.example:5432/cdw")
    source = 'kind = "sql"\nurl_variable = "CDW_URL"\nquery_file = "view.sql"'
    site = site_of(tmp_path / "site", source)
    described = site.settings.source.describe(site.site_file)
    assert described == "view.sql in postgresql db.example:5432/cdw"
    assert PASSWORD not in repr(load_site(site.folder))


def test_check_shows_the_source_and_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, rows())
    write_sqlite(tmp_path)
    monkeypatch.setenv("CDW_URL", f"sqlite:///{tmp_path}/rows.db")
    source = 'kind = "sql"\nurl_variable = "CDW_URL"\nquery_file = "view.sql"'
    site = site_of(tmp_path / "site", source)
    view = site.folder / "view.sql"
    view.write_text(ALL)
    others = {name: public_hex(Ed25519PrivateKey.generate()) for name in ("pier", "dock")}
    approve(site, STUDY, {"quay": public_hex(create_key(site.folder / "site.key")), **others})
    found = {check.title.strip(): check for check in run_checks(load_site(site.folder))}
    assert found["data source"].finding == f"sql: view.sql in sqlite {tmp_path}/rows.db, 9 columns"
    assert found["data"].finding == (
        f"view.sql in sqlite {tmp_path}/rows.db can be read and fits the study; not used: not_used"
    )
    assert found["data"].passed
    view.write_text("SELECT * FROM nope")
    found = {check.title.strip(): check for check in run_checks(load_site(site.folder))}
    assert not found["data source"].passed and not found["data"].passed
    assert "source.query" in found["data source"].finding


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT * FROM t ORDER BY a", True),
        ("select * from t\norder  by a, b", True),
        ("SELECT * FROM (SELECT * FROM t ORDER BY a) x", False),
        ("SELECT row_number() OVER (PARTITION BY (a) ORDER BY b) FROM t", False),
        ("SELECT * FROM t", False),
    ],
)
def test_a_query_has_an_order_if_it_says_so(tmp_path: Path, query: str, ordered: bool) -> None:
    source = f'kind = "sql"\nurl = "sqlite:///x.db"\nquery = """{query}"""'
    site = site_of(tmp_path / "site", source)
    assert site.settings.source.is_ordered(site.site_file) is ordered
