"""The report as one self-contained page that includes its styles, script and pictures.

And, for notebooks, the verdict, the best trials and one figure as a part of a page.

The page's content security policy lets a browser use only the script and style of this module, so
that text from the data, such as a file name, cannot act.
"""

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from digitrec.errors import visible
from digitrec.results.figures.chart import Chart
from digitrec.results.figures.mistakes import Mistake
from digitrec.results.report.sections import Section
from digitrec.results.report.summary import Summary

LEVELS = {"good": "Good", "note": "Note", "caution": "Caution"}
MOST_ROWS_PRINTED = 50  # page.css has the same number
MOST_LEADERS = 5  # rows of a notebook's table


def make_page(summary: Summary, sections: Sequence[Section], mistakes: Sequence[Mistake]) -> str:
    """Return the page."""
    environment = make_environment()
    style, script = (source_of(environment, name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        summary=summary,
        sections=sections,
        mistakes=mistakes,
        find_alone=find_alone,
        levels=LEVELS,
        most_rows_printed=MOST_ROWS_PRINTED,
        style=style,
        script=script,
        policy=policy_of(style, script),
    )


def make_environment() -> Environment:
    """Return the templates; what they are filled with is escaped."""
    return Environment(
        loader=PackageLoader("digitrec.results.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def make_excerpt(summary: Summary, chart: Chart | None, directory: str) -> str:
    """Return what a notebook shows of a study: verdict, best trials and a figure, as HTML.

    Args:
        summary: of the study.
        chart: the figure.
        directory: the study directory.
    """
    headings, rows = summary.best(MOST_LEADERS)
    template: Template = make_environment().get_template("study.html")
    return template.render(
        summary=summary,
        headings=headings,
        rows=rows,
        chart=chart,
        levels=LEVELS,
        directory=visible(directory),
    )


def find_alone(charts: Sequence[Chart]) -> set[str]:
    """Return the names of the narrow charts without a neighbour; two narrow charts fill a row."""
    alone: set[str] = set()
    half: str | None = None  # the first of two narrow charts in a row
    for chart in charts:
        if chart.wide and half:
            alone.add(half)
        half = None if chart.wide or half else chart.name
    return alone | ({half} if half else set())


def source_of(environment: Environment, name: str) -> str:
    """Return the text of a file beside the templates."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def policy_of(style: str, script: str) -> str:
    """Return a content security policy that allows only this style and this script."""
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
