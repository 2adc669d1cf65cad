"""``pratique-client resample``: a hospital's own table, balanced for its own models."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pratique_common import console
from pratique_common.durable import require_place
from pratique_common.errors import UsageError

EXAMPLE = (
    "Example: pratique-client resample study.toml --site /srv/pratique --method smote "
    "--out balanced.csv"
)


def resample(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Names columns and target.")],
    site: Annotated[Path, typer.Option(help="The site's folder, or its site.toml.")],
    method: Annotated[str, typer.Option(help="smote, borderline_smote, adasyn, random_over, ...")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same rows.")] = 0,
) -> None:
    """Balance this hospital's own table for its own models. LOCAL ONLY: it is not private."""
    from pratique_client.resampling import resample as balance
    from pratique_client.site import load_site
    from pratique_common.durable import write_whole
    from pratique_common.generators import LOCAL_ONLY
    from pratique_common.released_copies import table_csv
    from pratique_common.study import load_study
    from pratique_common.tables import parquet_bytes

    if method not in LOCAL_ONLY:
        raise UsageError(f"--method: choose one of {', '.join(LOCAL_ONLY)}")
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError("--out: give a .csv or a .parquet file")
    if out.exists():
        raise UsageError(f"{out} exists; give another --out")
    require_place(out)
    loaded, schema = load_site(site), load_study(study).data
    if schema.image is not None:
        raise UsageError(f"{study}: rows have images, which no such method makes")
    if schema.visits is not None:
        raise UsageError(f"{study}: rows are patients' visits, which no such method keeps together")
    balanced = balance(loaded.load_table(schema), schema, method, seed=seed)
    content = table_csv(balanced) if out.suffix == ".csv" else parquet_bytes(balanced)
    write_whole(out, content, mode=0o600)
    outcomes = Counter(balanced.column(schema.target).to_pylist())
    told = ", ".join(f"{count:,} {level}" for level, count in sorted(outcomes.items()))
    console.out.print(
        f"{balanced.num_rows:,} rows in {out}: {schema.target} {told}", markup=False, soft_wrap=True
    )
    console.out.print(
        "[bold red]LOCAL ONLY[/]: these rows are patients, or lie on lines between two of them. "
        "Treat the file as the records themselves. It can never be released.",
        soft_wrap=True,
    )
