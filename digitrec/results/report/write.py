"""The report of a study: `report.html`, one page with all figures, and `report.md`, in short."""

from collections.abc import Sequence

from digitrec.results.analysis.finding import Finding
from digitrec.results.report.markdown import make_markdown
from digitrec.results.report.page import make_page
from digitrec.results.report.sections import draw_mistakes, draw_sections
from digitrec.results.report.summary import summarise
from digitrec.store.record import StudyRecord

PAGE, MARKDOWN = "report.html", "report.md"


def write_report(record: StudyRecord, findings: Sequence[Finding]) -> None:
    """Write `report.html` and `report.md` in the study directory.

    Args:
        record: what the directory holds; the study need not be finished.
        findings: the verdict on it.
    """
    summary = summarise(record, findings)
    page = make_page(summary, draw_sections(record), draw_mistakes(record))
    record.directory.write(PAGE, page.encode())
    record.directory.write(MARKDOWN, make_markdown(summary).encode())
