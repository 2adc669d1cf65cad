"""``pratique demo --images`` as a newcomer runs it: minutes later there is a report with images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.statistical

ROWS = 2_000


@pytest.mark.timeout(3_600)
def test_the_demo_of_images_ends_in_a_release(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "pratique_server.cli"]
    # As in a shell: no number of threads is set there.
    environment = {name: value for name, value in os.environ.items() if "THREADS" not in name}
    done = subprocess.run(
        [*run, "demo", "--images", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = tmp_path / "demo" / "bundle"
    report = json.loads((bundle / "report.json").read_text("utf-8"))
    assert report["decision"] == "granted"
    assert all(rule["passed"] for rule in report["reasons"])
    assert report["control"]["found"]
    assert 'src="data:image/png;base64,' in (bundle / "report.html").read_text("utf-8")
    released = np.load(bundle / "synthetic.npz")
    table = pd.read_csv(bundle / "synthetic.csv")
    assert released["images"].shape == (ROWS, 32, 32, 1)
    # Of every finding there are images, and tumours have masks.
    assert set(table["finding"]) == {"none", "glioblastoma", "low grade glioma", "meningioma"}
    ill = (table["finding"] != "none").to_numpy()
    assert released["masks"][ill].any((1, 2)).mean() > 0.8
    assert not released["masks"][~ill].any()
    verified = subprocess.run([*run, "verify", str(bundle)], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout + verified.stderr
