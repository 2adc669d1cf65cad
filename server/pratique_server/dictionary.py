"""The released table's dictionary: for people (CSV) and for catalogues (Croissant)."""

import csv
import io
import json

from pratique_common.binned_columns import NumericColumn
from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.images.spec import IMAGE
from pratique_common.study import StudySpec

_HEADER = ("column", "type", "unit", "domain", "missing_allowed")


def dictionary_csv(study: StudySpec) -> str:
    """Return one line a column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    if study.data.visits is not None:
        writer.writerow([study.data.patient_id, "id", "", "of a synthetic patient", "no"])
    for each in study.data.ids:
        writer.writerow([each.name, "id", "", "fresh in every row: it identifies nobody", "no"])
    for column in study.data.columns:
        unit = column.unit if isinstance(column, NumericColumn) else ""
        if isinstance(column, CategoricalColumn):
            kind, domain = "category", "|".join(column.levels)
        else:
            kind = "integer" if column.kind == "number" and column.whole else column.kind
            first, *_, last = column.bin_edges()
            domain = f"{column.spell(first)} to {column.spell(last)}"
        missing = "yes" if column.can_be_missing else "no"
        if column.asked_if is not None:
            missing = f"unless {column.asked_if}" + ("; then too" if column.missing else "")
        writer.writerow([column.name, kind, unit, domain, missing])
    if study.data.image is not None:
        height, width, _ = study.data.image.shape
        domain = f"0 to 255; {height} x {width} x {'|'.join(study.data.image.planes)}"
        writer.writerow([IMAGE, "image", "", domain, "no"])
    return text.getvalue()


def _data_type(column: AnyColumn) -> str:
    if isinstance(column, NumericColumn):
        return "sc:Integer" if column.integer else "sc:Float"
    return {"date": "sc:Date", "time": "sc:Time", "text": "sc:Text"}[column.kind]


def croissant_json(study: StudySpec, parquet_sha256: str) -> str:
    """Return metadata in the Croissant 1.0 format of MLCommons."""
    file = "synthetic.parquet"

    kinds = dict.fromkeys(study.data.released_names, "sc:Text")
    kinds |= {column.name: _data_type(column) for column in study.data.columns}
    kinds.pop(IMAGE, None)  # its bytes are no type of this format's: they are in the archive
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"rows/{name}",
            "name": name,
            "dataType": kind,
            "source": {"fileObject": {"@id": file}, "extract": {"column": name}},
        }
        for name, kind in kinds.items()
    ]
    metadata = {
        "@context": {
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "conformsTo": "http://purl.org/dc/terms/conformsTo",
            "recordSet": "cr:recordSet",
            "field": "cr:field",
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            "source": "cr:source",
            "fileObject": "cr:fileObject",
            "extract": "cr:extract",
            "column": "cr:column",
        },
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{study.name}-synthetic",
        "description": f"Synthetic table released by Pratique. {study.disclosure.purpose}",
        "license": study.disclosure.licence,
        "version": "1.0.0",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file,
                "name": file,
                "contentUrl": file,
                "encodingFormat": "application/x-parquet",
                "sha256": parquet_sha256,
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": fields}],
    }
    return json.dumps(metadata, indent=1)
