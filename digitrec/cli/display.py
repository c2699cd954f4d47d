"""What the commands print: rankings, verdict, closing lines, scores and diagnoses."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from digitrec.cli.invocation import as_typed_here, shortest
from digitrec.errors import visible
from digitrec.results.text import percent

if TYPE_CHECKING:
    from digitrec.results.analysis.finding import Finding
    from digitrec.results.outcome import StudyResult
    from digitrec.store.spec import StudySpec
    from digitrec.winner.classifier import Classifier
    from digitrec.winner.predict import Score

MOST_RANKED = 5  # rows of the table at the end
LEAST_TELLING = ("updates", "val loss")  # columns that a narrow terminal does not show
BETWEEN_COLUMNS = "  "
ITEM = "- "  # before a sentence of the verdict


def print_result(result: "StudyResult", console: Console) -> None:
    """Print the ranking, the verdict, and where everything is."""
    from digitrec.results.analysis.naming import named_hyperparameters

    named = named_hyperparameters(result.tables.trials)
    means = result.configurations.head(MOST_RANKED).to_dict("records")
    if means:
        console.print(f"\n{_describe_means(result.record.spec, means)}")
        console.print(_table(*_rank_means(means, named), console), soft_wrap=True)
    leaders = result.ranked.head(MOST_RANKED).to_dict("records")
    if leaders:
        console.print(f"\nThe best {len(leaders)} of {len(result.tables.trials):,} trials")
        console.print(_table(*_rank_trials(leaders, named), console), soft_wrap=True)
    print_lines(describe_verdict(result.findings) + describe(result), console)


def _describe_means(spec: "StudySpec", means: Sequence[dict[Hashable, Any]]) -> str:
    title = "The leaders with fresh seeds" if spec.confirmed else "Means over the seeds"
    if not spec.cooled:
        return title
    cooled = means[0]["trials"][0] in spec.cooled_trials
    return f"{title}, {'after' if cooled else 'before'} the cooldown"


def print_lines(lines: Iterable[str], console: Console) -> None:
    """Print lines as they are, but wrap sentences of the verdict at words in a terminal."""
    for line in lines:
        wraps = console.is_terminal and line.startswith(ITEM)
        console.print(line, highlight=False, markup=False, soft_wrap=not wraps)


def _rank_trials(
    leaders: Sequence[dict[Hashable, Any]], named: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    identity = ["cooldown", "seed"] if "cooldown" in leaders[0] else ["seed"]
    if any(row["status"] == "dropped" for row in leaders):
        identity.append("epochs")
    rows = [
        [
            str(place),
            *_spell(row, named),
            *(str(row[name]) for name in identity),
            percent(row["val_accuracy"]),
            f"{row['val_loss']:.4f}",
            f"{row['updates']:,}",
        ]
        for place, row in enumerate(leaders, start=1)
    ]
    measured = ["val accuracy", "val loss", "updates"]
    return ["rank", *_headings(named), *identity, *measured], rows


def _rank_means(
    means: Sequence[dict[Hashable, Any]], named: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            *_spell(row, named),
            str(row["seeds"]),
            *(percent(row[name]) for name in ("val_accuracy", "lowest", "highest")),
        ]
        for row in means
    ]
    return [*_headings(named), "seeds", "mean val accuracy", "lowest", "highest"], rows


def _headings(named: Sequence[str]) -> list[str]:
    from digitrec.space.hyperparameters import HYPERPARAMETERS

    return [HYPERPARAMETERS[name].heading for name in named]


def _spell(row: dict[Hashable, Any], named: Sequence[str]) -> list[str]:
    from digitrec.results.analysis.naming import write_value

    return [write_value(name, row[name]) for name in named]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> Table:
    """Return a table whose headings are broken between words only.

    Where it is too wide for the console, columns with one value are left out and named below it,
    and then those that tell the least.
    """
    columns = dict(zip(headings, zip(*rows, strict=True), strict=True))
    shared: dict[str, str] = {}
    if len(rows) > 1 and sum(_widths(columns)) > console.width:
        shared = {name: cells[0] for name, cells in columns.items() if len({*cells}) == 1}
    columns = {name: cells for name, cells in columns.items() if name not in shared}
    for heading in LEAST_TELLING:
        if sum(_widths(columns)) > console.width:
            columns.pop(heading, None)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading, width in zip(columns, _widths(columns), strict=True):
        least = width - len(BETWEEN_COLUMNS)
        table.add_column(heading, justify="right", overflow="fold", min_width=least)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    if shared:
        said = ", ".join(f"{heading} {value}" for heading, value in shared.items())
        table.caption = Text(f"the same in all rows: {said}", justify="left", no_wrap=False)
        table.show_edge = False
    return table


def _widths(columns: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the least width of each column, in which no word is broken."""
    return [
        max(map(len, [*heading.split(), *cells])) + len(BETWEEN_COLUMNS)
        for heading, cells in columns.items()
    ]


def describe_verdict(findings: "Sequence[Finding]") -> list[str]:
    """Return the verdict as lines: what the study shows, and what to run next."""
    from digitrec.results.report.summary import make_visible

    lines = []
    for finding in findings:
        command = None if finding.command is None else as_typed_here(finding.command)
        shown = make_visible(replace(finding, command=command))
        lines.append(f"{ITEM}{shown.sentence}")
        if shown.command is not None:
            lines.append(f"    {shown.command}")
    return [*lines, ""] if lines else []


def describe(result: "StudyResult") -> list[str]:
    """Return the closing lines, which add to the verdict: model, test data, errors and files."""
    return [*_describe_model(result), *_describe_failures(result), *_describe_files(result)]


def _describe_model(result: "StudyResult") -> list[str]:
    from digitrec.results.report.summary import describe_model

    model = describe_model(result.record)
    lines = [model] if model else []
    if result.best is not None and "test" in result.best:
        test = result.best["test"]
        lines.append(
            f"Test data: the model recognises {percent(test['accuracy'])} of the {test['rows']:,} "
            f"images of {visible(test['source'])}."
        )
    return lines


def _describe_failures(result: "StudyResult") -> list[str]:
    """Return how many trials diverged, and why others failed; the verdict counts these."""
    trials, lines = result.tables.trials, []
    diverged = int((trials["status"] == "diverged").sum())
    if diverged:
        lines.append(f"{diverged} of {len(trials)} trials diverged.")
    reasons = [error.strip().splitlines()[-1] for error in result.failures.values()]
    lines += [f"Failed: {visible(reason)}" for reason in dict.fromkeys(reasons)]
    if reasons:
        lines.append(f"The full errors are in {shortest(str(result.directory / 'stacks'))}.")
    return lines


def _describe_files(result: "StudyResult") -> list[str]:
    study = result.directory
    places = {
        "tables": (study / "trials.csv", "epochs.csv"),
        "report": (study / "report.html", "report.md"),
        "figures": (study / "plots" / "comparison.png", "heatmap.png, updates.png"),
    }
    if result.record.spec.race:
        places["figures"] = (
            study / "plots" / "race.png",
            "comparison.png, heatmap.png, updates.png",
        )
    if result.best is not None:
        places["model"] = (study / "best" / "model.safetensors", "model.json")
    return [f"{name:8} {shortest(str(path))}, {more}" for name, (path, more) in places.items()]


def describe_average(classifier: "Classifier") -> str:
    """Return words to end a line with: how many models are averaged; empty for one alone."""
    members = len(classifier.members)
    return f"; mean of the probabilities of {members} models" if members > 1 else ""


def describe_score(score: "Score") -> list[str]:
    """Return lines: how often each digit was recognised as which, and how many were right.

    Plain text, because rich cuts a table whose numbers are too long for a terminal.
    """
    rows = score.confusion.tolist()
    lines = [["label", *map(str, range(len(rows))), "right"]]
    for digit, row in enumerate(rows):
        share = percent(row[digit] / sum(row), 1) if sum(row) else "none"
        lines.append([str(digit), *(str(count or "") for count in row), share])
    width = max(len(text) for line in lines for text in line)
    return [
        "Rows: labels. Columns: the digits that the images were recognised as.",
        *(" ".join(text.rjust(width) for text in line) for line in lines),
        f"{percent(score.right / score.images)} of the images recognised: "
        f"{score.right:,} of {score.images:,}",
    ]
