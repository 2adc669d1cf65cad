"""A draft of a study from the hospital's own table: for the hospital's own eyes.

Whatever stands in it was found in records. No limit and no level rests on fewer than ten rows, but
that is no anonymity: a person reviews it before anybody else sees it.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pratique_client.site import Site
from pratique_client.sources.base import TableSource
from pratique_common.cells import read_texts
from pratique_common.drafted_columns import drafted_table, in_a_line, study_skeleton
from pratique_common.errors import UsageError
from pratique_common.table_files import BATCH_ROWS

LEAST_ROWS = 10
"""On which a level or a limit must rest."""

_MOST_ROWS = 4 * BATCH_ROWS  # a draft needs no more, and tables may not fit

NOTICE = (
    "This file is DERIVED FROM PATIENTS' RECORDS of this hospital. It is for the hospital's own "
    "eyes: do not send or show it before a person who knows the field and whoever is responsible "
    "for data protection have read every line."
)

_HEADER = """\
# {notice}
#
# Drafted by `pratique-client draft` at {site}. Before it becomes a study:
#   * replace limits and levels below by those that are known from the field or from a public data
#     dictionary: what a study says, everybody may read;
#   * remove columns that the study does not need;
#   * whoever is responsible writes purpose, recipients and licence;
#   * `pratique study check` says what it will cost.
# Left out, too few values alike: {left_out}
"""


def draft_study(site: Site, *, name: str, expected_patients: int, target: str | None) -> str:
    """Return the text of a study file that cannot be used until a person completed it.

    Args:
        site: whose source is read.
        name: of the study.
        expected_patients: a public planning number.
        target: the outcome's column.

    Raises:
        InvalidFileError: the source cannot be read, or fewer than two columns can be used.
        UsageError: there is no such target, or the source is of images.
    """
    source, site_file = site.settings.source, site.site_file
    if not isinstance(source, TableSource):
        raise UsageError("draft reads tables; write the study of these images by hand")
    label, num_rows = source.label(site_file), 0
    texts: dict[str, list[NDArray[np.object_]]] = {n: [] for n in source.names(site_file)}
    for batch in source.batches(site_file, list(texts)):
        for column in texts:
            texts[column].append(read_texts(batch.column(column), label, column))
        num_rows += batch.num_rows
        if num_rows >= _MOST_ROWS:
            break
    table = pa.table({n: pa.array(np.concatenate(t), pa.string()) for n, t in texts.items()})
    data, notes = drafted_table(table, label, least_rows=LEAST_ROWS)
    text = study_skeleton(
        data,
        name=name,
        expected_patients=expected_patients,
        target=target,
        source=label,
        notes=notes,
    )
    drafted = {each["name"] for part in ("columns", "ids") for each in data.get(part, ())}
    left_out = [column for column in texts if column not in drafted | {data.get("patient_id")}]
    return (
        _HEADER.format(
            notice=NOTICE,
            site=site.name,
            left_out=", ".join(map(in_a_line, left_out)) or "nothing",
        )
        + text
    )


def write_draft(text: str, path: Path) -> None:
    """Write a draft that only its owner may read.

    Raises:
        UsageError: there is such a file.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists; give another --out") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
