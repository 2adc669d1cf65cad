"""The page: one offline HTML file."""

import json
from typing import Any


def render_report(report: dict[str, Any]) -> str:
    """Return the report as HTML."""
    return "<pre>" + json.dumps(report, indent=1) + "</pre>"
