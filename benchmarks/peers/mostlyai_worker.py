"""mostlyai-engine with differential privacy, on values.

    python mostlyai_worker.py FOLDER

FOLDER holds task.json and table.parquet; synthetic rows go to synthetic.parquet, seconds and the ε
that was spent to report.json. It takes domains from the data, for a tenth of ε.
"""

import json
import sys
import time
from pathlib import Path

import pandas as pd
from mostlyai.engine import TabularARGN
from mostlyai.engine.domain import DifferentialPrivacyConfig

_VALUES_SHARE = 0.1
_EPOCHS = 100
# Its defaults; ε ends the training.
_NOISE_MULTIPLIER, _MAX_GRAD_NORM = 1.5, 1.0


def main(folder: Path) -> None:
    """Fit one model and sample from it."""
    task = json.loads((folder / "task.json").read_text("utf-8"))
    table = pd.read_parquet(folder / "table.parquet")
    privacy = DifferentialPrivacyConfig(
        max_epsilon=task["epsilon"],
        delta=task["delta"],
        noise_multiplier=_NOISE_MULTIPLIER,
        max_grad_norm=_MAX_GRAD_NORM,
        value_protection_epsilon=_VALUES_SHARE * task["epsilon"],
    )
    start = time.monotonic()
    model = TabularARGN(
        differential_privacy=privacy,
        random_state=task["seed"],
        workspace_dir=str(folder / "workspace"),
        max_epochs=_EPOCHS,
        max_training_time=task["mostlyai_minutes"],
        verbose=0,
    )
    model.fit(table)
    seconds = time.monotonic() - start
    model.sample(n_samples=task["rows"])[list(table)].to_parquet(folder / "synthetic.parquet")
    progress = sorted((folder / "workspace").rglob("progress-messages.csv"))
    spent = float(pd.read_csv(progress[0])["dp_eps"].max())
    report = {"fit_s": seconds, "epsilon_when_it_stopped": spent}
    (folder / "report.json").write_text(json.dumps(report), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
