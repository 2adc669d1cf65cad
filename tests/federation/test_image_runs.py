"""Studies of images go the way of tables, from hospitals' files to a signed decision."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pratique_common.bundle import verify_bundle
from pratique_common.generators import IMAGE_GENERATORS
from pratique_common.images import prior_rows
from pratique_common.images.spec import PLANES
from pratique_common.phantoms.scans import scans_study_path, write_scans
from pratique_common.study import load_study
from pratique_privacy.audits import AUDITS
from pratique_privacy.local_audits import LOCAL_AUDITS
from pratique_privacy.post_processing import pretraining
from pratique_server.more_rows import sample_more_rows
from pratique_server.report.page import render_report
from pratique_server.reprint import reprint
from tests.federation.helpers import LocalFederation, make_federation
from tests.small_images import scans_text

ROWS = 120
SETTINGS = {
    "image_chain": "vote_rounds = 1\ncomponents = 8\n"
    "moments = { phantoms = 40, generations = 1 }\n"
    "network = { base_channels = 8, steps = 2, adapt_steps = 2 }\n",
    "image_diffusion": "base_channels = 8\npretrain_steps = 4\nsteps = 2\n",
    "image_gan": "",
    "image_vae": "pretrain_steps = 4\n",
    "sim_moments": "phantoms = 40\ngenerations = 1\n",
    "sim_pe": "phantoms = 40\n",
}
_SLOW = ("image_diffusion", "image_gan", "image_vae")  # they go the way of the chain's gradients


@pytest.fixture(autouse=True)
def _small_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_rows, "_ROWS", 60)
    monkeypatch.setattr(pretraining, "_POOL_ROWS", 64)
    monkeypatch.setattr(pretraining, "_ADAPT_ROWS", 64)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    sizes = {"harbour": 70, "lakeside": 60, "northgate": 50}
    return write_scans(tmp_path_factory.mktemp("scans"), seed=5, num_patients=sizes)


def federation_of(
    folder: Path,
    scans: dict[str, Path],
    name: str,
    settings: str,
    channels: tuple[str, ...] = ("t1ce",),
) -> LocalFederation:
    text = scans_text(f'name = "{name}"\n{settings}')
    text = text.replace('channels = ["t1ce"]', f"channels = {list(channels)}")
    text = text.replace("rows = 2000", f"rows = {ROWS}")
    rounds = 3 if name == "image_chain" else 2  # one of each of its parts
    text = text.replace(
        "rounds = 3", f"rounds = {rounds}\nround_timeout_s = 5\nreply_interval_s = 0"
    ).replace("expected_patients = 3000", "expected_patients = 180")
    # Little noise, so that 36 held-out patients are enough for figures.
    text = text.replace("epsilon_members = 2.0", "epsilon_members = 20.0")
    text = text.replace("epsilon_holdout = 4.0", "epsilon_holdout = 20.0")
    path = folder / "scans.toml"
    path.write_text(text)
    return make_federation(folder, load_study(path), path, scans, epsilon=60.0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.statistical if name in _SLOW else ())
        for name in sorted(IMAGE_GENERATORS)
    ],
)
def test_every_generator_of_images_goes_the_whole_way(
    name: str, tmp_path: Path, scans: dict[str, Path]
) -> None:
    federation = federation_of(tmp_path, scans, name, SETTINGS[name])
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    assert verified.manifest.decision == result.decision
    assert verified.report["sites"]["answered"] == sorted(scans)
    failed = {rule["rule"] for rule in verified.report["reasons"] if not rule["passed"]}
    # So few patients may leave bounds too wide; all else holds.
    assert all(rule.startswith((*AUDITS, "control")) for rule in failed), failed
    assert set(verified.report["audits"]) == set(AUDITS)
    for site in federation.sites.values():
        (annex,) = (site.folder / "annex").glob("*.json")
        found = json.loads(annex.read_text())["local_audits"]
        assert [each["id"] for each in found] == list(LOCAL_AUDITS)
    # Three lines through the middle of each head: no such bytes stand in anything that left.
    sent = b"".join(federation.grid.sent)
    assert len(sent) > 50_000
    for path in scans.values():
        for pixels in np.load(path.with_suffix(".npz"))["images"][:, 15:18]:
            assert pixels.tobytes() not in sent


def test_sites_see_every_contrast_of_what_they_audit(
    tmp_path: Path, scans: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members' rows have planes as the candidate has: a copy of one contrast would be near."""
    from pratique_privacy import conclusion
    from pratique_privacy.closeness import RelativeCloseness

    decide, seen = conclusion.decide, []
    monkeypatch.setattr(conclusion, "decide", lambda *args, **kw: _granted(decide(*args, **kw)))
    honest = RelativeCloseness.scores

    def scores(
        self: RelativeCloseness, columns: Mapping[str, NDArray[Any]], **options: Any
    ) -> NDArray[np.float64]:
        seen.append({name: values.shape for name, values in columns.items()}.get(PLANES))
        return honest(self, columns, **options)

    monkeypatch.setattr(RelativeCloseness, "scores", scores)
    paths = {}
    for site, path in scans.items():
        paths[site] = tmp_path / path.name
        paths[site].write_bytes(path.read_bytes())
        images = np.load(path.with_suffix(".npz"))["images"]
        both = np.concatenate([images, 255 - images], axis=3)
        np.savez(paths[site].with_suffix(".npz"), images=both)
    settings = SETTINGS["sim_pe"]
    federation = federation_of(tmp_path, paths, "sim_pe", settings, ("t1ce", "flair"))
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    assert set(verified.report["audits"]) == set(AUDITS)
    rows = {site: len(pd.read_csv(path)) for site, path in paths.items()}
    for num_rows in (ROWS, *rows.values()):
        assert (num_rows, 2, 1, 32) in seen
    # The coordinator's control is done again from the released rows, planes and all.
    assert "every claim follows from the evidence" in reprint(result.path)[1]


def test_a_release_holds_images_masks_and_what_is_known_of_them(
    tmp_path: Path, scans: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pratique_privacy import conclusion

    # Few patients: the gate is opened by hand, at coordinator and sites alike.
    honest = conclusion.decide
    monkeypatch.setattr(
        conclusion,
        "decide",
        lambda *args, **fields: _granted(honest(*args, **fields)),
    )
    federation = federation_of(tmp_path, scans, "sim_pe", SETTINGS["sim_pe"])
    result = federation.coordinator().run()
    assert result.decision == "granted"
    verified = verify_bundle(result.path)
    arrays = np.load(result.path / "synthetic.npz")
    table = pd.read_csv(result.path / "synthetic.csv")
    assert list(table.columns) == ["finding", "place"]
    assert arrays["images"].shape == (ROWS, 32, 32, 1)
    assert arrays["masks"].shape == (ROWS, 32, 32)
    # The masks are of what the images show.
    ill = (table["finding"] != "none").to_numpy()
    assert not arrays["masks"][~ill].any()
    assert arrays["masks"][ill].any((1, 2)).mean() > 0.8
    report = verified.report
    page = render_report(report)
    assert "data:image/png;base64," in page
    assert report["samples"]["levels"] == list(
        load_study(scans_study_path()).data.columns[0].levels
    )
    assert "not shown to be better than its public prior" in page  # with 36 held out
    _, again = reprint(result.path)
    assert "every claim follows from the evidence" in again
    # More of them, as many of each finding, from what is in the bundle alone.
    more = sample_more_rows(result.path, rows=8, where=[], balance="finding", seed=1)
    findings = more.table.column("finding").to_pylist()
    assert findings == [level for level in report["samples"]["levels"] for _ in range(2)]
    assert more.masks is not None and not more.masks[:2].any()
    assert sum(group.share for group in more.groups) == pytest.approx(1)


def _granted(gate: object) -> object:
    from dataclasses import replace

    return replace(gate, decision="granted")  # type: ignore[type-var]
