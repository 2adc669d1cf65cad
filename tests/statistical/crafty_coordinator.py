"""A coordinator that has a table of its own audited; ``app.py`` of a server's copy starts it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pratique_common.canonical import sha256_hex
from pratique_common.tables import parquet_bytes
from pratique_privacy import conclusion
from pratique_privacy.evidence import Evidence
from pratique_privacy.post_processing.derivation import Derivation
from pratique_server.coordinator import Coordinator
from pratique_server.release import Candidate

KNOWN = "CRAFTY_KNOWN"
"""Names the file of what it knows of one patient: JSON, column → value."""
SEEN, TABLE = "seen.npy", "crafted.parquet"
"""What it keeps: the opened sum of all counts, and the table."""
_COPIES = 20


class CraftyCoordinator(Coordinator):
    """It puts what it knows of one patient into the first rows, and keeps what it gets."""

    def _sample(self, derivation: Derivation) -> Candidate:
        honest = super()._sample(derivation)
        frame = honest.table.to_pandas()
        for name, value in json.loads(Path(os.environ[KNOWN]).read_text("utf-8")).items():
            frame.loc[: _COPIES - 1, name] = value
        table = pa.Table.from_pandas(frame, honest.table.schema, preserve_index=False)
        content = parquet_bytes(table.replace_schema_metadata(None))
        Path(self._job.out, TABLE).write_bytes(content)
        return replace(honest, table=table, parquet=content, sha256=sha256_hex(content))

    def _audit(self, candidate: Candidate) -> Evidence:
        evidence = super()._audit(candidate)
        total = conclusion._audit_total(self._study, evidence)
        if total is not None:
            np.save(Path(self._job.out, SEEN), total)
        return evidence
