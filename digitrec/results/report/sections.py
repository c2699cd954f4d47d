"""Which figures a report shows of a study, each with its caption and what it shows in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from digitrec.results.analysis.statistics import summarise_best_of_n
from digitrec.results.figures import (
    budget,
    calibration,
    classes,
    confusion,
    effects,
    gap,
    mistakes,
    parts,
    sweep,
    timeline,
)
from digitrec.results.figures.canvas import Picture, listed, render, searched, share
from digitrec.results.figures.plots import (
    CONFIGURATION,
    count,
    draw_comparison,
    draw_heatmap,
    draw_updates,
    summarise_comparison,
    summarise_heatmap,
)
from digitrec.results.report.summary import rank_trials
from digitrec.store.record import StudyRecord
from digitrec.store.validation import WinnerValidation


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A figure of the report."""

    name: str
    """Short, for its address within the page."""
    title: str
    caption: str
    """How to read it."""
    says: str
    """What it shows, in words and numbers."""
    picture: Picture
    wide: bool
    """Whether it takes the page's whole width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Omission:
    """A figure that a study gives no material for."""

    title: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One of the winner's mistakes."""

    row: int
    label: int
    prediction: int
    probability: float
    picture: Picture | None
    """None: the pixels do not make a square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures that belong together."""

    name: str
    title: str
    note: str
    """What holds for all of them; may be empty."""
    charts: list[Chart]
    omissions: list[Omission]


@dataclass(frozen=True, slots=True)
class Study:
    """A record and its winner."""

    record: StudyRecord
    winner: str | None
    comparison: pd.DataFrame
    """As from `summarise_comparison`."""

    @property
    def trials(self) -> pd.DataFrame:
        """The table of trials."""
        return self.record.tables.trials

    @property
    def epochs(self) -> pd.DataFrame:
        """The table of epochs."""
        return self.record.tables.epochs

    @property
    def validation(self) -> WinnerValidation | None:
        """What the winner predicts; None where it is not kept, or that of an earlier winner."""
        validation = self.record.validation
        return validation if validation and validation.trial == self.winner else None


Maker = Callable[[Study], Chart | Omission]


def draw_sections(record: StudyRecord) -> list[Section]:
    """Return all figures of a report, in their order."""
    ranked = rank_trials(record)
    winner = None if ranked.empty else str(ranked["trial"].iloc[0])
    tables = record.tables
    study = Study(record, winner, summarise_comparison(tables.trials, tables.epochs, winner))
    contents: dict[tuple[str, str], Sequence[Maker]] = {
        ("reached", "What was reached"): [_comparison, _heatmap, _updates],
        ("why", "What made the difference"): [_sweep, _effects, _gap, _budget],
        ("winner", "The winner, digit by digit"): [_confusion, _classes, _calibration],
        ("time", "Where the time went"): [_parts, _timeline],
    }
    return [
        _section(name, title, _note(study) if name == "winner" else "", [m(study) for m in makers])
        for (name, title), makers in contents.items()
    ]


def draw_mistakes(record: StudyRecord) -> list[Mistake]:
    """Return the winner's most confident mistakes, most confident first; none if not kept."""
    validation = record.validation
    winners = rank_trials(record)["trial"].head(1).tolist()
    if record.labels is None or validation is None or [validation.trial] != winners:
        return []
    frame = mistakes.summarise_mistakes(
        record.labels, validation.probabilities, validation.mistakes, validation.mistake_rows
    )
    pictures = map(mistakes.draw_digit, validation.mistake_images)
    return [
        Mistake(
            row=int(row["row"]),
            label=int(row["label"]),
            prediction=int(row["prediction"]),
            probability=float(row["probability"]),
            picture=picture,
        )
        for row, picture in zip(frame.to_dict("records"), pictures, strict=True)
    ]


def _note(study: Study) -> str:
    """Which model the winner's figures are of, where there are two."""
    best = study.record.best
    if best is None or best["trial"] != study.winner or "refit" not in best:
        return ""
    return (
        "Figures and mistakes are those of the model before it was trained again on all "
        f"{best['refit']['rows']:,} rows, which include the validation images. The saved model is "
        "the later one."
    )


def _section(name: str, title: str, note: str, made: Sequence[Chart | Omission]) -> Section:
    return Section(
        name=name,
        title=title,
        note=note,
        charts=[each for each in made if isinstance(each, Chart)],
        omissions=[each for each in made if isinstance(each, Omission)],
    )


def _comparison(study: Study) -> Chart:
    frame = study.comparison
    return Chart(
        name="comparison",
        title="Loss and accuracy, epoch by epoch",
        caption=(
            "Colour is the learning rate, dashes and marker are the batch size. Training values "
            "are means over an epoch while it is trained on, validation values are taken after "
            "it; so in the first epochs training looks worse than validation."
        ),
        says=_say_curves(study),
        picture=render(draw_comparison(frame), len(frame)),
        wide=True,
    )


def _heatmap(study: Study) -> Chart:
    frame = summarise_heatmap(study.trials, study.winner)
    figure = draw_heatmap(frame)
    return Chart(
        name="heatmap",
        title="Accuracy over the grid",
        caption=(
            "The frame marks the winner. A good winner has good neighbours; one on the edge says "
            "that the search should go on beyond it."
        ),
        says=_say_grid(frame),
        picture=render(figure, len(frame)),
        wide=figure.get_figwidth() > 8,
    )


def _updates(study: Study) -> Chart:
    frame = study.comparison[study.comparison["metric"] == "val_accuracy"]
    return Chart(
        name="updates",
        title="Accuracy against optimizer updates",
        caption=(
            "Equal epochs are many updates for a small batch and few for a large one. Curves that "
            "lie on top of each other here differ only in how long they were trained."
        ),
        says=_say_updates(study.trials),
        picture=render(draw_updates(frame), len(frame)),
        wide=True,
    )


def _sweep(study: Study) -> Chart | Omission:
    title = "Best accuracy against each hyperparameter"
    frame = sweep.summarise_sweep(study.trials, study.winner)
    if not frame["trained"].any():
        return Omission(title=title, reason=_why_no_comparison(study))
    return Chart(
        name="sweep",
        title=title,
        caption=(
            "A point per trial: the best validation accuracy of any of its epochs. Colour and "
            "marker are those of the comparison; the line joins the highest points. A cross is a "
            "trial that diverged, at the best it had reached, or at the foot if it had nothing."
        ),
        says=sweep.describe_sweep(frame),
        picture=render(sweep.draw_sweep(frame), len(frame)),
        wide=False,
    )


def _effects(study: Study) -> Chart | Omission:
    title = "Effect of learning rate and batch size"
    frame = effects.summarise_effects(study.trials)
    if frame["accuracy"].isna().all():
        return Omission(title=title, reason=_why_no_comparison(study))
    return Chart(
        name="effects",
        title=title,
        caption=(
            "The thick line is the main effect, the mean over the other hyperparameter; a thin "
            "line holds the other one fixed. Where the thin lines run side by side, the two act "
            "on their own; where they cross, the best value of one depends on the other. Trials "
            "that did not complete are left out, which flatters the values where they are."
        ),
        says=effects.describe_effects(frame),
        picture=render(effects.draw_effects(frame), len(frame)),
        wide=False,
    )


def _gap(study: Study) -> Chart | Omission:
    title = "Gap between training and validation"
    frame = gap.summarise_gap(study.trials, study.epochs, study.winner)
    if frame["mean"].isna().all():
        return Omission(title=title, reason="no trial has a finite epoch yet")
    return Chart(
        name="gap",
        title=title,
        caption=(
            "Lines are those of the comparison. Above 0, training images are recognised better "
            "than unseen ones; a gap that widens while validation accuracy falls is overfitting. "
            "Training accuracy is taken while the model still learns, so the first epochs lie "
            "below 0."
        ),
        says=gap.describe_gap(frame),
        picture=render(gap.draw_gap(frame), len(frame)),
        wide=False,
    )


def _budget(study: Study) -> Chart | Omission:
    title = "Would fewer trials have done?"
    fresh = study.trials["trial"].isin(study.record.question.confirmed_trials)
    frame = summarise_best_of_n(study.trials[~fresh])  # those of leaders are no random draws
    if len(frame) < 2:
        return Omission(title=title, reason="it takes two trials that completed")
    return Chart(
        name="budget",
        title=title,
        caption=(
            "The best validation accuracy to expect of n trials drawn at random from those "
            "trained; 90% of the draws lie in the band. Diverged trials count as drawn. Where the "
            "curve is flat, fewer trials would have done."
        ),
        says=budget.describe_best_of_n(frame),
        picture=render(budget.draw_best_of_n(frame), len(frame)),
        wide=False,
    )


def _confusion(study: Study) -> Chart | Omission:
    title = "Which digit is taken for which"
    labels, predictions = study.record.labels, study.record.predictions.get(study.winner or "")
    if labels is None or predictions is None:
        return Omission(title=title, reason=_why_no_predictions(study))
    frame = confusion.summarise_confusion(labels, predictions)
    return Chart(
        name="confusion",
        title=title,
        caption="Validation images of the winner. Only mistakes are coloured.",
        says=confusion.describe_confusion(frame),
        picture=render(confusion.draw_confusion(frame), len(frame)),
        wide=False,
    )


def _classes(study: Study) -> Chart | Omission:
    title = "Accuracy of each digit"
    labels, predictions = study.record.labels, study.record.predictions.get(study.winner or "")
    if labels is None or predictions is None:
        return Omission(title=title, reason=_why_no_predictions(study))
    frame = classes.summarise_classes(labels, predictions)
    return Chart(
        name="classes",
        title=title,
        caption="With Wilson's 95% interval; the dashed line is the accuracy over all digits.",
        says=classes.describe_classes(frame),
        picture=render(classes.draw_classes(frame), len(frame)),
        wide=False,
    )


def _calibration(study: Study) -> Chart | Omission:
    title = "Is it right as often as it says?"
    labels, validation = study.record.labels, study.validation
    if labels is None or validation is None or not len(labels):
        return Omission(title=title, reason=_why_no_predictions(study))
    frame = calibration.summarise_calibration(labels, validation.probabilities)
    return Chart(
        name="calibration",
        title=title,
        caption=(
            "Reliability diagram: images in ten bins by the probability of the predicted digit. On "
            "the diagonal, confidence and accuracy agree; above it the model is too modest, below "
            "it too sure. The bars count the images, on a log scale."
        ),
        says=calibration.describe_calibration(frame),
        picture=render(calibration.draw_calibration(frame), len(frame)),
        wide=False,
    )


def _parts(study: Study) -> Chart | Omission:
    title = "Parts of the last run"
    if not study.record.timings:
        return Omission(title=title, reason="the directory holds no timings")
    frame = parts.summarise_parts(study.record.timings)
    return Chart(
        name="parts",
        title=title,
        caption="Wall clock of the parts of the last run; some overlap.",
        says=parts.describe_parts(frame),
        picture=render(parts.draw_parts(frame), len(frame)),
        wide=False,
    )


def _timeline(study: Study) -> Chart | Omission:
    title = "Timeline of the workers"
    if study.record.runs.empty:
        return Omission(title=title, reason="no trial has been trained yet")
    frame = timeline.summarise_timeline(study.record.runs, study.trials)
    return Chart(
        name="timeline",
        title=title,
        caption=(
            "A row per worker and a bar per stack, coloured and labelled by batch size; what is "
            "empty is starting or waiting. A dashed line is the end of a run; the time until the "
            "next is left out."
        ),
        says=timeline.describe_timeline(frame),
        picture=render(timeline.draw_timeline(frame), len(frame)),
        wide=True,
    )


def _why_no_comparison(study: Study) -> str:
    if not searched(study.trials):
        return "the study has one learning rate and one batch size"
    return "no trial has completed"


def _why_no_predictions(study: Study) -> str:
    if study.winner is None:
        return "no trial has completed, so there is no winner"
    return (
        "the directory does not hold what it needs of the validation images; "
        "`digitrec tune` keeps it at its end"
    )


def _say_curves(study: Study) -> str:
    """What the comparison shows: the winner's course, and how the trials ended."""
    configurations = len(study.trials.drop_duplicates(CONFIGURATION))
    said = [f"Curves of {count(configurations, 'configuration')}."]
    if study.winner is not None:
        own = study.epochs[study.epochs["trial"] == study.winner]
        ends = own if len(own) == 1 else own.iloc[[0, -1]]
        course = [
            f"{share(row['val_accuracy'])} and {row['val_loss']:.3f} nats after epoch "
            f"{row['epoch']:.0f}"
            for _, row in ends.iterrows()
        ]
        said.append(f"Validation accuracy and loss of the winner: {listed(course)}.")
    statuses = study.trials["status"].value_counts()
    said.append(
        f"Trials: {listed([f'{number:,} {status}' for status, number in statuses.items()])}."
    )
    return " ".join(said)


def _say_grid(frame: pd.DataFrame) -> str:
    found = frame.dropna(subset="accuracy").sort_values("accuracy", kind="stable")
    if found.empty:
        return f"None of {count(len(frame), 'cell')} has a trial that completed."
    low, high = found.iloc[0], found.iloc[-1]
    said = [f"Highest of {count(len(found), 'cell')}: {share(high['accuracy'])} at {_cell(high)}."]
    if len(found) > 1:
        said.append(f"Lowest: {share(low['accuracy'])} at {_cell(low)}.")
    if len(found) < len(frame):
        said.append(f"{count(len(frame) - len(found), 'cell')} without a trial that completed.")
    return " ".join(said)


def _cell(row: "pd.Series[float]") -> str:
    return f"learning rate {row['lr']:g} and batch size {row['batch_size']:g}"


def _say_updates(trials: pd.DataFrame) -> str:
    """For each batch size, the updates and the best accuracy; of many, the first and the last."""
    completed = trials[trials["status"] == "completed"]
    if completed.empty:
        return "No trial has completed."
    best = completed.groupby("batch_size").agg(
        updates=("updates", "max"), accuracy=("val_accuracy", "max")
    )
    rows = best if len(best) <= 6 else best.iloc[[0, -1]]
    said = [
        f"{row['updates']:,.0f} updates of {size} images reach {share(row['accuracy'])}"
        for size, row in rows.iterrows()
    ]
    return f"At best, {listed(said)}."
