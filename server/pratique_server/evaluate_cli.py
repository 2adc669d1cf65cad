"""``pratique evaluate``: fidelity and utility of synthetic tables and images, on files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from pratique_common import console
from pratique_common.durable import require_place
from pratique_common.errors import UsageError

if TYPE_CHECKING:
    from pratique_common.images.image_pixels import Scaling
    from pratique_common.study import StudySpec

_FEW = "insufficient n"
EXAMPLE = "Example: pratique evaluate heart.toml --synthetic s.parquet --train t.csv --test h.csv"


def evaluate(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    synthetic: Annotated[
        Path,
        typer.Option(help="Synthetic table: CSV (images: an .npz of its name beside) or Parquet."),
    ],
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
    weights: Annotated[
        Path | None,
        typer.Option(help="Images: TorchScript network whose features are compared, too."),
    ] = None,
    weights_sha256: Annotated[
        str | None, typer.Option(help="What the SHA-256 of --weights must be.")
    ] = None,
    scaling: Annotated[
        Literal["percentile", "full_range"] | None,
        typer.Option(help="Images in .npz: how sites read the real ones. Default: percentile."),
    ] = None,
    originals: Annotated[
        Path | None,
        typer.Option(
            help="Images: real table whose rows the synthetic ones stand for, in their order "
            "(reconstructions, translations): SSIM and PSNR of the pairs."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an older evaluation in that folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure fidelity and utility against real tables or images, with intervals and floors."""
    from pratique_common.images.image_tables import scaling_of
    from pratique_common.study import load_study

    if out is not None and (out / "evaluation.json").exists() and not force:
        raise UsageError(f"{out} holds an evaluation already; give another --out, or --force")
    if out is not None:
        require_place(out, folder=True)
    spec = load_study(study)
    files = {"synthetic": synthetic, "train": train, "test": test}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    if originals is not None:
        if spec.data.image is None:
            raise UsageError("--originals: is for studies of images; leave it out for tables")
        files["originals"] = originals
    used = scaling_of(spec.data.image, [p for r, p in files.items() if r != "synthetic"], scaling)
    if spec.data.image is not None:
        if by is not None:
            raise UsageError("--by: groups are of tables; leave it out for images")
        found = _of_images(spec, files, weights, weights_sha256, used, created)
    elif weights is not None or weights_sha256 is not None:
        raise UsageError("--weights: is for studies of images; leave it out for tables")
    else:
        found = _of_tables(spec, files, by, created)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (out / "evaluation.html").write_text(_page(found), encoding="utf-8")
    if as_json:
        console.print_json(found)
        return
    console.out.print(_measures(found))
    if found.get("subgroups"):
        console.out.print(_groups(found))
    if out is not None:
        console.out.print(f"page      {out / 'evaluation.html'}", markup=False, soft_wrap=True)


def _of_tables(
    spec: "StudySpec", files: dict[str, Path], by: list[str] | None, created: str
) -> dict[str, Any]:
    from pratique_server.evaluation.evaluate import evaluate_files

    return evaluate_files(spec, files, by=by, created=created)


def _of_images(
    spec: "StudySpec",
    files: dict[str, Path],
    weights: Path | None,
    weights_sha256: str | None,
    scaling: "Scaling | None",
    created: str,
) -> dict[str, Any]:
    from pratique_common.images.features import FeatureEncoder
    from pratique_server.evaluation.images.evaluate_images import evaluate_image_files
    from pratique_server.evaluation.images.feature_files import FileEncoder
    from pratique_server.evaluation.images.likeness import Encoder

    if (weights is None) != (weights_sha256 is None):
        raise UsageError("--weights: give it together with --weights-sha256")
    assert spec.data.image is not None
    encoders = [Encoder("phantom", FeatureEncoder.of(spec.data.image.prior).features)]
    if weights is not None and weights_sha256 is not None:
        from_file = FileEncoder.load(weights, weights_sha256)
        encoders.append(Encoder("file", from_file, from_file.inception))
    return evaluate_image_files(spec, files, encoders=encoders, created=created, scaling=scaling)


def _page(found: dict[str, Any]) -> str:
    from pratique_server.report.evaluation_page import render_evaluation
    from pratique_server.report.image_evaluation_page import render_image_evaluation

    if found["kind"] == "image_evaluation":
        return render_image_evaluation(found)
    return render_evaluation(found)


def _measures(found: dict[str, Any]) -> Table:
    table = Table("measure", "value", "95 % interval", "with real rows")
    for measure in found["measures"].values():
        known, none = measure["value"] is not None, _FEW if measure["few"] else "not defined"
        floor = measure["baseline"]
        table.add_row(
            escape(measure["title"]),
            f"{measure['value']:.4f}" if known else none,
            f"{measure['lower']:.4f} to {_bound(measure['upper'])}" if known else "",
            none if floor is None else f"{floor:.4f}",
        )
    return table


def _bound(upper: float | None) -> str:
    return "∞" if upper is None else f"{upper:.4f}"


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
