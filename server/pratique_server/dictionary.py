"""The released table's dictionary: for people (CSV) and for catalogues (Croissant)."""

import csv
import io
import json

from pratique_common.schema import NumericColumn
from pratique_common.study import StudySpec

_HEADER = ("column", "type", "unit", "domain", "missing_allowed")


def dictionary_csv(study: StudySpec) -> str:
    """Return one line a column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for column in study.data.columns:
        if isinstance(column, NumericColumn):
            edges = column.bin_edges()
            kind = "integer" if column.integer else "number"
            unit, domain = column.unit, f"{edges[0]:g} to {edges[-1]:g}"
        else:
            kind, unit, domain = "category", "", "|".join(column.levels)
        writer.writerow([column.name, kind, unit, domain, "yes" if column.missing else "no"])
    return text.getvalue()


def croissant_json(study: StudySpec, parquet_sha256: str) -> str:
    """Return metadata in the Croissant 1.0 format of MLCommons."""
    file = "synthetic.parquet"

    def data_type(column: object) -> str:
        if isinstance(column, NumericColumn):
            return "sc:Integer" if column.integer else "sc:Float"
        return "sc:Text"

    fields = [
        {
            "@type": "cr:Field",
            "@id": f"rows/{column.name}",
            "name": column.name,
            "dataType": data_type(column),
            "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
        }
        for column in study.data.columns
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
