"""``pratique sample``: more rows from a release."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pratique_common import console
from pratique_common.durable import require_place
from pratique_common.errors import UsageError

if TYPE_CHECKING:
    from pratique_server.more_rows import MoreRows

EXAMPLE = (
    "Example: pratique sample demo/bundle --rows 1000 --where age=65..80 --balance sex "
    "--out older.csv"
)

_SUFFIXES = (".csv", ".parquet")


def sample(
    bundle: Annotated[Path, typer.Argument(help="A release: a folder or a .zip.")],
    rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many rows.")],
    out: Annotated[
        Path,
        typer.Option(help="Table to write: .parquet, or .csv; images then go into an .npz beside."),
    ],
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=LEVEL,LEVEL or COLUMN=LOWEST..HIGHEST; may be repeated. Of several "
            "levels one that has a comma is in double quotes. "
            "Of visits: what a patient's first one is like."
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            help="Column of whose levels all get as many rows; of visits, by a patient's first one."
        ),
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(min=1, max=1_024, help="Of images: each row becomes a volume of so many."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same rows.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an older table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Sample more rows from a release's generator, on conditions; costs no privacy."""
    from pratique_server.more_rows import as_data, sample_more_rows

    if out.suffix not in _SUFFIXES:
        raise UsageError(f"{out}: write a table to a file that ends with .csv or .parquet")
    _require_new(out, force=force)
    require_place(out)
    result = sample_more_rows(
        bundle, rows=rows, where=where or [], balance=balance, seed=seed, slices=slices
    )
    written = _write(result, out, force=force)
    groups = as_data(result)
    if as_json:
        console.print_json({"rows": result.table.num_rows, "groups": groups})
        return
    table = Table("rows", "condition", "share of patients", "patients in training, about")
    for group in groups:
        share, patients = "insufficient n", f"fewer than {2 * group['noise_of_a_count']:.0f}"
        if group["sufficient"]:
            share, patients = f"{group['share']:.2%}", f"{group['training_patients_about']}"
        table.add_row(str(group["rows"]), escape(group["condition"]) or "all", share, patients)
    console.out.print(table)
    if not all(group["sufficient"] for group in groups):
        console.out.print(
            "insufficient n: noise hides how many patients are like that; rows may show noise only"
        )
    console.out.print(
        f"written to {' and '.join(map(str, written))}; not part of the release: no audit saw "
        "these rows",
        markup=False,
        soft_wrap=True,
    )


def _write(result: "MoreRows", out: Path, *, force: bool) -> list[Path]:
    """Write the table, and an archive of its images beside a CSV, and return what was written."""
    from pratique_common.released_copies import image_archive, table_csv
    from pratique_common.tables import parquet_bytes
    from pratique_server.more_images import with_masks

    if out.suffix == ".parquet":
        contents = {out: parquet_bytes(with_masks(result.table, result.masks))}
    else:
        contents = {out: table_csv(result.table)}
        if result.image is not None:
            archive = image_archive(result.table, result.image, result.masks)
            contents[out.with_suffix(".npz")] = archive
    for path in contents:
        _require_new(path, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    partials = {path: path.with_name(f"{path.name}.partial") for path in contents}
    try:
        for path, partial in partials.items():
            partial.write_bytes(contents[path])
    except OSError:
        for partial in partials.values():
            partial.unlink(missing_ok=True)  # on a full disk it is in everybody's way
        raise
    for path, partial in partials.items():  # all or nothing
        partial.replace(path)
    return list(contents)


def _require_new(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; give another --out, or --force")
