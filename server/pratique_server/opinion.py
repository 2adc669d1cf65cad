"""``pratique audit``: the battery on files, exact and without a federation. An opinion only."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pratique_common import __version__
from pratique_common.canonical import file_sha256
from pratique_common.errors import NotEnoughDataError
from pratique_common.images.audited import audited_columns, audited_names
from pratique_common.images.image_pixels import Scaling
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec
from pratique_common.table_files import header
from pratique_common.tables import Table, read_table
from pratique_common.threads import use_one_thread
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.family import conclude, count_cells
from pratique_privacy.claims import audits_as_data, control_as_data
from pratique_privacy.control import planted_leak
from pratique_privacy.gate import WHOLE_FILE, Rule, decide
from pratique_privacy.local_audits import run_local_audits
from pratique_privacy.local_audits.base import RealPatients
from pratique_privacy.local_audits.dcr import WHY_NOT_DECISIVE
from pratique_server.file_digests import file_digests
from pratique_server.other_patients import require_other_patients


def audit_files(
    study: StudySpec,
    *,
    synthetic: Path,
    members: Path,
    holdout: Path,
    scaling: Scaling | None,
) -> dict[str, Any]:
    """Return the audit of a synthetic table against the patients that it was made of.

    Members and hold-out must be a random split of patients: with any other split, a difference
    between the groups is not a sign of memorisation. No patient may stand in both. Of images the
    audit sees what the public encoder finds in them, as at hospitals.

    Args:
        study: whose columns the tables have.
        synthetic: table; images as they stand.
        members: table of the patients that it was made of.
        holdout: table of others.
        scaling: of members' and hold-out's images in ``.npz`` files, as hospitals' sources had it;
            see ``scaling_of``.

    Raises:
        InvalidFileError: a table is not acceptable.
        InvalidFileError: a patient stands in both files.
        UsageError: the study's images have no encoder.
        NotEnoughDataError: too few patients or rows for any conclusion.
    """
    use_one_thread()
    schema = study.data.audited
    candidate = _seen(study.data, read_table(synthetic, study.data, with_patients=False))
    in_training, held_out = (
        _seen(study.data, read_table(path, study.data, scaling=scaling))
        for path in (members, holdout)
    )
    require_other_patients(schema, {"members": in_training, "holdout": held_out}, source=holdout)
    columns = {
        name: np.concatenate([in_training.columns[name], held_out.columns[name]])
        for name in audited_names(study.data)
    }
    owners = np.concatenate(
        [
            np.char.add("m", in_training.patients.astype(str)),
            np.char.add("h", held_out.patients.astype(str)),
        ]
    ).astype(object)
    is_member = np.char.startswith(np.unique(owners.astype(str)), "m")
    if min(is_member.sum(), (~is_member).sum()) < 1 or candidate.num_rows < 3:
        raise NotEnoughDataError("members, hold-out or synthetic rows are too few for an audit")
    try:
        context = AuditContext.build(schema, candidate.columns)
    except ValueError:
        raise NotEnoughDataError(
            f"{synthetic}: too few rows for an audit, or nearly every row has a twin; "
            "give a table whose rows differ"
        ) from None
    patients = RealPatients.of(context, columns, owners, is_member)
    audits = conclude(
        count_cells(context.cuts, patients.scores.of_group(is_member)),
        count_cells(context.cuts, patients.scores.of_group(~is_member)),
        study.release,
        sigma_members=0.0,
        sigma_holdout=0.0,
        member_share=float(is_member.mean()),
    )
    planted = planted_leak(
        schema,
        candidate.columns,
        study.release,
        num_members=is_member.sum(),
        num_holdout=(~is_member).sum(),
        sigma_members=0.0,
        sigma_holdout=0.0,
    )
    others = _columns_beyond(study.data, synthetic)
    whole = Rule(tier=3, rule=WHOLE_FILE, passed=not candidate.num_dropped and not others)
    gate = decide([whole], audits, planted, required=False)
    return {
        "report_version": 1,
        "kind": "opinion",
        "study": study.name,
        "study_digest": study.digest,
        "simulated": study.simulated,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "decision": gate.decision,
        "candidate_sha256": file_sha256(synthetic),
        "files": {
            role: file_digests(path, study.data)
            for role, path in (("synthetic", synthetic), ("members", members), ("holdout", holdout))
        },
        "scaling": scaling,
        "patients": {"members": int(is_member.sum()), "holdout": int((~is_member).sum())},
        "unit": "patient" if schema.patient_id else "row",
        "synthetic_rows": candidate.num_rows,
        "columns_left_out": others,
        "rows_outside_domain": {
            "synthetic": candidate.num_dropped,
            "members": in_training.num_dropped,
            "holdout": held_out.num_dropped,
        },
        "reasons": [asdict(rule) for rule in gate.rules],
        "audits": audits_as_data(audits),
        "descriptive_note": WHY_NOT_DECISIVE,
        "control": control_as_data(planted),
        "local_audits": [asdict(result) for result in run_local_audits(patients)],
        "version": __version__,
    }


def _seen(schema: TableSchema, table: Table) -> Table:
    return replace(table, columns=audited_columns(schema, table.columns))


def _columns_beyond(schema: TableSchema, path: Path) -> list[str]:
    """Return the columns of a table that the study does not name; ids and visits' order are none.

    Of images there is no such list: their reader knows which columns name files.
    """
    if schema.image is not None:
        return []
    ids = (each.name for each in schema.ids)
    known = {*schema.names, *ids, schema.patient_id, schema.visits and schema.visits.order_by}
    return [name for name in header(path) if name not in known]
