"""``pratique evaluate``: fidelity and utility of a synthetic table, on files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pratique_common import console

_FEW = "insufficient n"
EXAMPLE = "Example: pratique evaluate heart.toml --synthetic s.parquet --train t.csv --test h.csv"


def evaluate(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    synthetic: Annotated[Path, typer.Option(help="Synthetic table: CSV or Parquet.")],
    train: Annotated[Path, typer.Option(help="Real table that the synthetic one imitates.")],
    test: Annotated[Path, typer.Option(help="Real table of other patients.")],
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Categorical column to look into; may be repeated. Default: the study's."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.html and evaluation.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure fidelity and utility against real tables, with intervals and floors."""
    from pratique_common.study import load_study
    from pratique_server.evaluation.evaluate import evaluate_files
    from pratique_server.report.evaluation_page import render_evaluation

    found = evaluate_files(
        load_study(study),
        {"synthetic": synthetic, "train": train, "test": test},
        by=by,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (out / "evaluation.html").write_text(render_evaluation(found), encoding="utf-8")
    if as_json:
        console.print_json(found)
        return
    console.out.print(_measures(found))
    if found["subgroups"]:
        console.out.print(_groups(found))
    if out is not None:
        console.out.print(f"page      {out / 'evaluation.html'}", soft_wrap=True)


def _measures(found: dict[str, Any]) -> Table:
    table = Table("measure", "value", "95 % interval", "with real rows")
    for measure in found["measures"].values():
        known = measure["value"] is not None
        floor = measure["baseline"]
        table.add_row(
            escape(measure["title"]),
            f"{measure['value']:.4f}" if known else "not defined",
            f"{measure['lower']:.4f} to {measure['upper']:.4f}" if known else "",
            "not defined" if floor is None else f"{floor:.4f}",
        )
    return table


def _groups(found: dict[str, Any]) -> Table:
    table = Table(
        "group", "patients", "share", "synthetic", "distance (with real rows)", "TSTR / TRTR AUC"
    )
    for group in found["subgroups"]:
        auc = group["tstr_auc"]
        table.add_row(
            escape(f"{group['column']}: {group['level']}"),
            f"{group['patients']}",
            f"{group['share']:.2%}",
            f"{group['synthetic_share']:.2%}",
            _distance(group),
            _FEW if auc is None else f"{auc:.3f} / {group['trtr_auc']:.3f}",
        )
    return table


def _distance(group: dict[str, Any]) -> str:
    if group["distance"] is not None:
        return f"{group['distance']:.3f} ({group['floor']:.3f})"
    return _FEW if group["synthetic_rows"] else "no synthetic rows"
