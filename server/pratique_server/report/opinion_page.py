"""The page of an opinion on files."""

import json
from typing import Any


def render_opinion(report: dict[str, Any]) -> str:
    """Return the opinion as HTML."""
    return "<pre>" + json.dumps(report, indent=1) + "</pre>"
