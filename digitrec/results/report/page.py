"""The report as one page that needs nothing else: its styles, script and pictures are in it.

The page's own policy lets a browser run and apply only what this module put there, so that nothing
that came with the data, such as a file's name, can act.
"""

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from digitrec.results.report.sections import Chart, Mistake, Section
from digitrec.results.report.summary import COLUMNS, Summary

LEVELS = {"good": "Good", "note": "Note", "caution": "Caution"}
MOST_ROWS_PRINTED = 50  # also in page.css


def make_page(summary: Summary, sections: Sequence[Section], mistakes: Sequence[Mistake]) -> str:
    """Return the page.

    Args:
        summary: the study in words.
        sections: its figures.
        mistakes: of the winner.
    """
    environment = Environment(
        loader=PackageLoader("digitrec.results.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        summary=summary,
        sections=sections,
        mistakes=mistakes,
        columns=COLUMNS,
        find_alone=find_alone,
        levels=LEVELS,
        most_rows_printed=MOST_ROWS_PRINTED,
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def find_alone(charts: Sequence[Chart]) -> set[str]:
    """Return the names of the narrow charts that have no other beside them, two being a row."""
    alone: set[str] = set()
    half: str | None = None  # of a row
    for chart in charts:
        if chart.wide and half:
            alone.add(half)
        half = None if chart.wide or half else chart.name
    return alone | ({half} if half else set())


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _policy(style: str, script: str) -> str:
    """A content security policy that admits this style and this script alone."""
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
