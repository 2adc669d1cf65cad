"""How many slices of brain phantoms one core renders in a CPU-second: four contrasts and the mask.

    OMP_NUM_THREADS=1 nice python -m benchmarks.phantom_speed

CPU time of this process (``time.process_time``), so that other processes count only by what they
evict from the caches; the median of five repetitions with their range. JSON in ``results/``.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pratique_common.phantoms.brain_mri import render_slices
from pratique_common.phantoms.brain_parameters import BASE, draw

SLICES = {32: 256, 64: 64, 128: 16}
REPETITIONS = 5


def slices_per_cpu_s(size: int, num: int, seed: int) -> float:
    """Return the rate for one draw of phantoms, all in the axial plane."""
    phantoms = draw(num, np.random.default_rng(seed))
    start = time.process_time()
    render_slices(phantoms, BASE, size=size)
    return num / (time.process_time() - start)


def main() -> None:
    """Measure every size and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "results" / "phantom_speed.json"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    result = {}
    with threadpool_limits(1):
        for size, num in SLICES.items():
            slices_per_cpu_s(size, min(num, 16), seed=99)  # warm caches
            rates = [slices_per_cpu_s(size, num, seed) for seed in range(REPETITIONS)]
            result[size] = {
                "median": round(float(np.median(rates)), 1),
                "lowest": round(min(rates), 1),
                "highest": round(max(rates), 1),
            }
            print(size, result[size])
    out.write_text(json.dumps({"slices_per_cpu_s": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
