"""The short report, as Markdown, for terminals and pull requests."""

import re
from collections.abc import Sequence

from digitrec.results.report.summary import Summary

MOST_ROWS = 10
# Characters that Markdown or HTML would read as markup; an underscore only at a word's edge.
MARKUP = re.compile(r"[\\`*<>\[\]|&~]|(?<!\w)_|_(?!\w)")


def make_markdown(summary: Summary) -> str:
    """Return the short report of a summary."""
    parts = [
        f"# Study of {plain(summary.name)}",
        plain(summary.state),
        *([] if summary.findings else [plain(summary.winner)]),  # the verdict starts with it
        *([plain(summary.model)] if summary.model else []),
        *_verdict(summary),
        *_leaders(summary),
        "## Setup",
        "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in summary.setup),
        "This command runs the study. In this study directory, it trains only what is missing.",
        code(summary.command),
        *_failures(summary),
        "report.html has the figures and all trials.",
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Return text on one line, escaped so that Markdown shows it unchanged."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def code(text: str) -> str:
    """Return a command as a code block; the text may contain backticks."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _verdict(summary: Summary) -> list[str]:
    parts = ["## Verdict"] if summary.findings else []
    for finding in summary.findings:
        parts.append(f"**{finding.level.capitalize()}.** {plain(finding.sentence)}")
        parts.append(f"> {plain(finding.evidence)}")
        if finding.command:
            parts.append(code(finding.command))
    return parts


def _leaders(summary: Summary) -> list[str]:
    """Return the section on the best trials; nothing where no trial has a rank."""
    headings, leaders = summary.best(MOST_ROWS)
    if not leaders:
        return []
    table = [headings, ["---:"] * len(headings), *leaders]
    return [f"## The best {len(leaders)} of {len(summary.rows):,} trials", _table(table)]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table, padded so that columns line up in a terminal."""
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
