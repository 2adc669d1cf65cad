"""AIM and MST of dpmm (SAS, Apache-2.0), on codes; runs in an environment of its own.

    python dpmm_worker.py IN.npz OUT.npz

IN holds codes (N, D), num_levels (D,), method, epsilon, delta, seed, rows, max_model_size (MB). OUT
holds codes (rows, D) and fit_s. The domain is the public dictionary's: nothing is extracted.
"""

import random
import sys
import time

import numpy as np
import pandas as pd
from dpmm.models.aim import AIMGM
from dpmm.models.mst import MSTGM


def main(source: str, target: str) -> None:
    """Fit one model and sample from it."""
    task = np.load(source)
    seed = int(task["seed"])
    random.seed(seed)
    names = [f"c{d}" for d in range(task["codes"].shape[1])]
    frame = pd.DataFrame(task["codes"], columns=names).astype(np.int64)
    domain = dict(zip(names, task["num_levels"].tolist(), strict=True))
    settings = {"max_model_size": float(task["max_model_size"]), "n_jobs": 1}
    method = {"aim": AIMGM, "mst": MSTGM}[str(task["method"])]
    model = method(
        epsilon=float(task["epsilon"]),
        delta=float(task["delta"]),
        domain=domain,
        random_state=np.random.RandomState(seed),
        **settings,
    )
    start = time.monotonic()
    model.fit(frame)
    fit_s = time.monotonic() - start
    rows = model.generate(n_records=int(task["rows"]))[names].to_numpy().astype(np.int64)
    np.savez(target, codes=rows, fit_s=fit_s)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
