"""AIM (McKenna et al. 2022) and MST (McKenna et al. 2021) by their authors' scripts, on codes.

    python private_pgm_worker.py FOLDER

FOLDER holds task.json and codes.npy, (N, D); codes of synthetic rows go to synthetic.npy, seconds
to report.json. The domain is the public dictionary's: nothing is extracted from data.
"""

import json
import sys
import time
from itertools import combinations
from pathlib import Path
from types import ModuleType, SimpleNamespace

from scipy import sparse

_SOURCE = Path(sys.prefix) / "source"
sys.path[:0] = [str(_SOURCE / "src"), str(_SOURCE), str(_SOURCE / "mechanisms")]
# Their scripts import two packages of which one is in no index and the other breaks on import; of
# these, AIM uses the identity matrix alone.
for name, content in {
    "hdmm": {},
    "hdmm.matrix": {"Identity": sparse.identity},
    "autodp": {"privacy_calibrator": SimpleNamespace()},
}.items():
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(content)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from aim import AIM  # noqa: E402
from mbi import Dataset, Domain  # noqa: E402
from mst import MST  # noqa: E402

_MOST_CELLS = 10_000  # of a marginal in AIM's workload: its script's default


def main(folder: Path) -> None:
    """Fit one model and sample from it."""
    task = json.loads((folder / "task.json").read_text("utf-8"))
    codes = np.load(folder / "codes.npy")
    np.random.seed(task["seed"])  # both scripts draw from NumPy's global generator
    names = [f"c{d}" for d in range(codes.shape[1])]
    data = Dataset(pd.DataFrame(codes, columns=names), Domain(names, task["num_levels"]))
    start = time.monotonic()
    if task["method"] == "mst":
        synthetic = MST(data, task["epsilon"], task["delta"])
    else:
        pairs = [pair for pair in combinations(names, 2) if data.domain.size(pair) <= _MOST_CELLS]
        aim = AIM(
            task["epsilon"],
            task["delta"],
            prng=np.random,
            rounds=task["aim_rounds"],
            max_model_size=task["aim_megabytes"],
            max_iters=task["aim_iterations"],
        )
        _, synthetic = aim.run(data, [(pair, 1.0) for pair in pairs], num_synth_rows=task["rows"])
    seconds = time.monotonic() - start
    # MST makes as many rows as it believes there are; drawing from them would add an error.
    np.save(folder / "synthetic.npy", synthetic.df[names].to_numpy(np.int64))
    (folder / "report.json").write_text(json.dumps({"fit_s": seconds}), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
