"""The report in short, as Markdown: for terminals and pull requests."""

import re
from collections.abc import Sequence

from digitrec.results.report.summary import COLUMNS, Summary

MOST_ROWS = 10
SHOWN = ("rank", "lr", "batch_size", "seed", "val_accuracy", "val_loss", "updates", "seconds")
# What Markdown or HTML would take for more than text; an underscore only at a word's edge.
MARKUP = re.compile(r"[\\`*<>\[\]|&~]|(?<!\w)_|_(?!\w)")


def make_markdown(summary: Summary) -> str:
    """Return the report in short.

    Args:
        summary: the study in words.
    """
    parts = [
        f"# Study of {plain(summary.name)}",
        plain(summary.state),
        plain(summary.winner),
        *_verdict(summary),
        *_leaders(summary),
        "## The question",
        "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in summary.question),
        "This command asks it; in this directory it goes on with what is missing.",
        code(summary.command),
        *_failures(summary),
        "The figures and all trials are in report.html.",
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Return text in one line that Markdown shows as it is."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def code(text: str, language: str = "sh") -> str:
    """Return text as a block of code, whatever backticks are in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _verdict(summary: Summary) -> list[str]:
    parts = ["## Verdict"] if summary.findings else []
    for finding in summary.findings:
        parts.append(f"**{finding.level.capitalize()}.** {plain(finding.sentence)}")
        parts.append(f"> {plain(finding.evidence)}")
        if finding.command:
            parts.append(code(finding.command))
    return parts


def _leaders(summary: Summary) -> list[str]:
    """The best trials; none where none has a rank."""
    places = [place for place, column in enumerate(COLUMNS) if column.name in SHOWN]
    leaders = [row for row in summary.rows if row[0]][:MOST_ROWS]
    if not leaders:
        return []
    table = [
        [COLUMNS[place].heading for place in places],
        ["---:"] * len(places),
        *([row[place] for place in places] for row in leaders),
    ]
    return [f"## The best {len(leaders)} of {len(summary.rows):,} trials", _table(table)]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of one length, padded so that a terminal shows columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(cell.rjust(width, "-" if cell == "---:" else " ") for cell, width in pairs)
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _failures(summary: Summary) -> list[str]:
    if not summary.failures and not summary.damaged:
        return []
    lines = [
        f"- {len(failure.trials)} failed: {plain((failure.error.splitlines() or [''])[-1])}"
        for failure in summary.failures
    ]
    lines += [f"- damaged, not used: {plain(each)}" for each in summary.damaged]
    return ["## What went wrong", "\n".join(lines)]
