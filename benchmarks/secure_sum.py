"""What one secure sum costs: time and bytes, beside the same round without masks.

    nice python benchmarks/secure_sum.py --dropout

The product's own parts, in one process and one thread. A site adds noise, masks, copies its vector
into bytes and out again (sending), and reveals (if one is missing it countersigns before); the
coordinator opens and reads. Without masks: noise, sending, adding in place, reading. Left out are
what is summed, networks, disks and checks of signed vectors. ``ratio`` is of one site's time plus
the coordinator's, as sites work at the same time. Seconds depend on what else runs, ratios less.

All sites mask and every sum is checked; three sites of a round add real noise and are timed. Three
rounds are played, or one if it is long: figures are medians of 9 or 3 repetitions with their range.
Bytes are those of the product's messages (hexadecimal JSON beside the vector) without envelopes of
Flower and gRPC, and without what starts a round. The form is like that of a training step of
``adult.toml``: noise multiplier 10 and room for 20,000 clipped gradients, so words of 64 bits.
"""

import argparse
import json
import os
import resource
import secrets
import time
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import partial, reduce
from itertools import cycle, product
from operator import iadd
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rich.console import Console
from rich.table import Table

from pratique_common.signing import public_hex
from pratique_privacy.discrete_gaussian import discrete_gaussian
from pratique_privacy.fixed_point import FixedPoint, Section
from pratique_privacy.secure_sum.opening import open_sum
from pratique_privacy.secure_sum.party import Masked, Party
from pratique_privacy.secure_sum.roster import Roster

Cell = dict[str, Any]
Taken = defaultdict[str, list[float]]

OUT = Path(__file__).resolve().parent / "results" / "secure_sum.json"
REFERENCE = (4, 50_000)  # about Adult: 46,907 parameters
COLLUDING, SMALLEST_DROPOUT = 1, 5  # with 5 sites one may be missing
TIMED_SITES, MAX_ROUNDS, LONG_S = 3, 3, 20
MEMORY_GB, SPARE_VECTORS = 3.0, 7  # room for everybody's vectors and so many temporary ones
PLAIN_PARTS = ("noise", "sending", "adding", "reading")
TITLES = {
    "masking": "Seconds in which a site masks (dotted: adds noise)",
    "opening": "Seconds in which the coordinator opens",
    "ratio": "Time of a round with masks ÷ without",
    "percent_beside": "Bytes a site sends beside its vector, % of it",
}
SKIPPED = (
    "not measured: {num_sites} sites ({missing} missing) × {size:,}: {gb:.1f} GB, more than 3 GB"
)
SHOWN = ("noise", "masking", "revealing", "opening", "adding", "ratio")
HOWS = ("median", "min", "max")
COLOURS = ("#8cc5d6", "#d2691e", "#3d8ba6", "#0b4f7d", "#1b1f24")


def clock(taken: Taken, part: str, work: Callable[..., Any], *args: Any) -> Any:
    """Return what ``work`` returns and keep how long it took."""
    start = time.perf_counter()
    result = work(*args)
    taken[part].append(time.perf_counter() - start)
    return result


def make_parties(num_sites: int, dropouts: int) -> tuple[dict[str, Party], Roster]:
    """Return the sites of one run, which open what they are asked to open."""
    names = [f"site{i:03d}" for i in range(num_sites)]
    identities = {name: Ed25519PrivateKey.generate() for name in names}
    keys = {name: X25519PrivateKey.generate() for name in names}
    public = {name: public_hex(key) for name, key in identities.items()}
    mask_keys = {name: key.public_key().public_bytes_raw().hex() for name, key in keys.items()}
    threshold = (num_sites + COLLUDING) // 2 + 1
    roster = Roster(
        session="run", mask_keys=mask_keys, tolerated_dropouts=dropouts, threshold=threshold
    )
    parties = {
        name: Party(name, identities[name], keys[name], roster, public, lambda *_: True)
        for name in names
    }
    return parties, roster


def form_of(num_sites: int, size: int, dropouts: int) -> FixedPoint:
    """Return the form of a training step's sum."""
    section = Section(size=size, sensitivity=1.0, noise_multiplier=10.0, largest=20_000.0)
    num_shares = num_sites - dropouts - COLLUDING
    return FixedPoint(sections=(section,), num_sites=num_sites, num_shares=num_shares)


def json_bytes(*values: Any) -> int:
    """Return the length of values in messages, where bytes are hexadecimal digits."""

    return len(json.dumps(values, separators=(",", ":"), default=lambda part: part.hex()))


def play_round(
    parties: dict[str, Party], roster: Roster, form: FixedPoint, label: str, taken: Taken
) -> dict[str, int]:
    """Do one round with and without masks and return the bytes of a site."""
    survivors = roster.sites[roster.tolerated_dropouts :]
    books = {s: taken if s in survivors[:TIMED_SITES] else Taken(list) for s in survivors}
    masked, signatures, sealed, revealed = dict[str, Masked](), {}, {}, {}
    expected = np.zeros(form.size, form.word)
    sum_id = roster.sum_id(label, roster.sites, inputs="", size=form.size, bits=form.bits)
    for number, (site, book) in enumerate(books.items()):
        if book is taken:
            words = clock(book, "noise", form.protect, np.zeros(form.size))
        else:
            words = np.full(form.size, number, form.word)
        expected += words
        masked[site] = clock(book, "masking", parties[site].mask, sum_id, words)
        clock(book, "sending", lambda v: np.frombuffer(v.tobytes(), v.dtype), masked[site].words)
        del words
    if roster.tolerated_dropouts:
        for site, book in books.items():
            sign = partial(parties[site].countersign, label, survivors)
            signatures[site] = clock(book, "countersigning", sign)
    for site, book in books.items():
        sealed[site] = {peer: m.sealed[site] for peer, m in masked.items() if peer != site}
        shown = (label, survivors, sealed[site], signatures)
        revealed[site] = clock(book, "revealing", parties[site].reveal, *shown)

    first, *others = (m.words for m in masked.values())
    unmask = partial(open_sum, participants=roster.sites, threshold=roster.threshold)
    for _ in range(TIMED_SITES):
        clock(taken, "adding", lambda: reduce(iadd, others, first.copy()))
        opened = clock(taken, "opening", unmask, masked, revealed)
        clock(taken, "reading", form.read, opened.words)
    if not np.array_equal(opened.words, expected):
        raise SystemExit(f"{label}: a wrong sum was opened")
    site, signed = survivors[0], list(signatures.values())[:1]
    shares = {peer: share.to_bytes() for peer, share in revealed[site].shares.items()}
    part = {name: value for name, value in vars(masked[site]).items() if name != "words"}
    sent = json_bytes(part, {**vars(revealed[site]), "shares": shares}, *signed)
    asked = {"study_digest": "0" * 64, "run": "benchmark", "label": label, "survivors": survivors}
    request = {**asked, "sealed": sealed[site], "signatures": signatures}
    received = json_bytes(request, *[asked] * len(signed))
    return {"vector": expected.nbytes, "beside": sent, "received": received}


def measure(num_sites: int, size: int, dropouts: int) -> Cell:
    """Return the cost of a sum: medians with their range."""
    parties, roster = make_parties(num_sites, dropouts)
    form, taken, start = form_of(num_sites, size, dropouts), Taken(list), time.monotonic()
    for number in range(MAX_ROUNDS):
        num_bytes = play_round(parties, roster, form, f"round {number}", taken)
        if time.monotonic() - start > LONG_S:
            break
    seconds = {part: np.array(values) for part, values in taken.items()}
    masked = sum(values for part, values in seconds.items() if part != "adding")
    plain = sum(seconds[part] for part in PLAIN_PARTS)
    figures = {**seconds, "round": masked, "plain_round": plain, "ratio": masked / plain}
    figures["percent_beside"] = np.array(100 * num_bytes["beside"] / num_bytes["vector"])
    cell: Cell = {"num_sites": num_sites, "size": size, "missing": dropouts, "bits": form.bits}
    cell |= {"repetitions": len(taken["noise"]), "bytes": num_bytes}
    return cell | {name: spread(values) for name, values in figures.items()}


def spread(values: Any) -> dict[str, float]:
    """Return median, least and largest."""
    found = zip(HOWS, (np.median(values), np.min(values), np.max(values)), strict=True)
    return {how: float(f"{value:.4g}") for how, value in found}


def reference_draw(sigma: int) -> int:
    """Return one exact draw, written as in Canonne, Kamath, Steinke 2020 (algorithms 1-3)."""

    def coin(gamma: Fraction) -> bool:
        if gamma > 1:
            return coin(Fraction(1)) and coin(gamma - 1)
        trial = 1
        while secrets.randbelow(gamma.denominator * trial) < gamma.numerator:
            trial += 1
        return trial % 2 == 1

    scale = sigma + 1
    while True:
        size, negative = secrets.randbelow(scale), secrets.randbelow(2)
        if not coin(Fraction(size, scale)):
            continue
        while coin(Fraction(1)):
            size += scale
        if negative and size == 0:
            continue
        if coin((size - Fraction(sigma**2, scale)) ** 2 / (2 * sigma**2)):
            return -size if negative else size


def compare_samplers(form: FixedPoint, num_reference: int = 2_000) -> dict[str, Any]:
    """Return microseconds a draw of three samplers, and the product's share of ``protect``."""
    taken, sigma, rng = Taken(list), 1 << form.log2_sigma, np.random.default_rng()
    for _ in range(5):
        clock(taken, "protect", form.protect, np.zeros(form.size))
        clock(taken, "product", discrete_gaussian, form.size, form.log2_sigma)
        clock(taken, "numpy normal", rng.normal, 0.0, sigma, form.size)
        clock(taken, "fractions", lambda: [reference_draw(sigma) for _ in range(num_reference)])
    seconds = {name: np.array(values) for name, values in taken.items()}
    draws = {"product": form.size, "numpy normal": form.size, "fractions": num_reference}
    us_a_draw = {name: spread(1e6 * seconds[name] / n) for name, n in draws.items()}
    share = spread(seconds["product"] / seconds["protect"])
    return {"log2_sigma": form.log2_sigma, "us_a_draw": us_a_draw, "share_of_protect": share}


def show(results: dict[str, Any], console: Console) -> None:
    """Print everything."""
    table = Table("sites", "coordinates", *SHOWN, "vector, B", "sent beside, B", "received, B")
    formats = dict.fromkeys(SHOWN, EngFormatter(places=1, sep="")) | {"ratio": "{:.2f}".format}
    for cell in results["cells"]:
        spreads = ([write(cell[name][how]) for how in HOWS] for name, write in formats.items())
        sites = str(cell["num_sites"]) + cell["missing"] * "\n1 missing"
        size = f"{cell['size']:,}\n{cell['repetitions']} times"
        figures = ("{}\n{}-{}".format(*spread) for spread in spreads)
        table.add_row(sites, size, *figures, *(f"{n:,}" for n in cell["bytes"].values()))
    console.print("seconds of a site, then of the coordinator; median, least, largest", table)
    for skipped in results["skipped"]:
        console.print(SKIPPED.format(**skipped))
    for name, figure in results["samplers"]["us_a_draw"].items():
        console.print(name, "{median:.3g} µs a draw ({min:.3g}-{max:.3g})".format(**figure))
    share = results["samplers"]["share_of_protect"]
    console.print("sampler ÷ protect: {median:.0%} ({min:.0%}-{max:.0%})".format(**share))


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw seconds, ratios and bytes against the size of a sum; bars are the range."""
    mpl.rcdefaults()
    mpl.rcParams.update({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "secure_sum"})
    figure = Figure(figsize=(8.2, 6.4), layout="constrained")
    axes = dict(zip(TITLES, figure.subplots(2, 2).ravel(), strict=True))
    groups: dict[tuple[int, int], list[Cell]] = defaultdict(list)
    for cell in results["cells"]:
        groups[cell["num_sites"], cell["missing"]].append(cell)
    colours = dict(zip(sorted({num_sites for num_sites, _ in groups}), cycle(COLOURS)))
    ordered = sorted(groups.items())
    for ((num_sites, missing), cells), (name, ax) in product(ordered, axes.items()):
        if missing and name != "opening":
            continue
        sizes = [cell["size"] for cell in cells]
        middle, low, high = np.array([[cell[name][how] for how in HOWS] for cell in cells]).T
        look: Cell = {"color": colours[num_sites], "ls": "--" if missing else "-", "lw": 1}
        look["label"] = f"{num_sites} sites" + missing * ", one missing"
        ax.errorbar(sizes, middle, [middle - low, high - middle], marker="o", ms=3, **look)
        if name == "masking":
            ax.plot(sizes, [cell["noise"]["median"] for cell in cells], **look | {"ls": ":"})
        ax.grid(alpha=0.3)
        ax.set(xscale="log", yscale="log", xlabel="coordinates")
        ax.set_title(TITLES[name], loc="left", size=9, weight="bold")
        ax.yaxis.set_major_formatter("{x:g}")
    figure.legend(*axes["opening"].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    notes = "\n".join(SKIPPED.format(**skipped) for skipped in results["skipped"])
    figure.suptitle(notes, fontsize=8, x=0.01, ha="left")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure all cells, then print and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 10, 30, 100])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--dropout", action="store_true", help="also rounds with one site missing")
    parser.add_argument("--out", type=Path, default=OUT)
    args, console, load = parser.parse_args(), Console(width=170), os.getloadavg()
    results: dict[str, Any] = {"cells": [], "skipped": []}
    measure(*REFERENCE, 0)  # libraries load and memory is asked for before anything counts
    wanted = [(*REFERENCE, 0), *product(args.sites, args.sizes, [0])]
    if args.dropout:
        wanted += [(n, size, 1) for n, size, _ in wanted if n >= SMALLEST_DROPOUT]
    for num_sites, size, dropouts in wanted:
        need = 8e-9 * size * (num_sites - dropouts + SPARE_VECTORS)
        cell = {"num_sites": num_sites, "size": size, "missing": dropouts, "gb": need}
        console.print(cell)
        if need > MEMORY_GB:
            results["skipped"].append(cell)
        else:
            results["cells"].append(measure(num_sites, size, dropouts))
    results["samplers"] = compare_samplers(form_of(*REFERENCE, 0))
    results["machine"] = {"cores": os.cpu_count(), "loads": [load, os.getloadavg()]}
    results["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    show(results, console)
    args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    draw(results, args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
