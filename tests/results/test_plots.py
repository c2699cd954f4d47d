from collections.abc import Iterable
from io import BytesIO, StringIO
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from digitrec.results.figures.comparison import PANELS, draw_comparison
from digitrec.results.figures.curves import summarise_curves
from digitrec.results.figures.encoding import Encoding
from digitrec.results.figures.heatmap import draw_heatmap, summarise_heatmap
from digitrec.results.figures.scales import ValueScale, accuracy_at, error_decades
from digitrec.results.figures.style import render_png
from digitrec.results.figures.updates import draw_updates, summarise_updates
from digitrec.results.report.sections import draw_sections, write_plots
from digitrec.store.folder import Folder
from tests.studies import DEFAULTS, make_record

LRS, BATCH_SIZES = (0.01, 0.1, 1.0), (32, 512)
METRICS = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]
Tables = tuple[pd.DataFrame, pd.DataFrame]


def name_of(lr: float, batch_size: int, seed: int = 0) -> str:
    return f"lr{lr:g}-bs{batch_size}-seed{seed}"


def study(
    lrs: Iterable[float] = LRS,
    batch_sizes: Iterable[int] = BATCH_SIZES,
    seeds: Iterable[int] = (0,),
    epochs: int = 3,
) -> Tables:
    """Completed trials whose validation accuracy is 0.9 + lr / 100 + seed / 100 after any epoch."""
    rows = [
        {
            "trial": name_of(lr, batch_size, seed),
            "lr": lr,
            "batch_size": batch_size,
            **DEFAULTS,
            "seed": seed,
            "epoch": epoch,
            "updates": epoch * -(-33_600 // batch_size),
            "train_loss": 2.0 / epoch,
            "train_accuracy": 0.8,
            "val_loss": 1.0 / epoch,
            "val_accuracy": 0.9 + lr / 100 + seed / 100,
            "seconds": 1.0,
        }
        for lr, batch_size, seed in product(lrs, batch_sizes, seeds)
        for epoch in range(1, epochs + 1)
    ]
    table = pd.DataFrame(rows)
    last = table[table["epoch"] == epochs].rename(columns={"epoch": "epochs"})
    trials = last.assign(
        status="completed", best_val_accuracy=last["val_accuracy"], best_epoch=epochs
    )
    return trials.reset_index(drop=True), table


def diverge(tables: Tables, trial: str, from_epoch: int) -> Tables:
    trials, epochs = (table.copy() for table in tables)
    epochs.loc[(epochs["trial"] == trial) & (epochs["epoch"] >= from_epoch), METRICS] = np.nan
    trials.loc[trials["trial"] == trial, METRICS] = np.nan
    trials.loc[trials["trial"] == trial, "status"] = "diverged"
    return trials, epochs


def fail(tables: Tables, trial: str, status: str = "failed") -> Tables:
    trials, epochs = (table.copy() for table in tables)
    trials.loc[trials["trial"] == trial, METRICS] = np.nan
    trials.loc[trials["trial"] == trial, "status"] = status
    return trials, epochs[epochs["trial"] != trial]


def all_diverged() -> Tables:
    tables = study()
    for trial in tables[0]["trial"]:
        tables = diverge(tables, trial, 1)
    return tables


def none_finished() -> Tables:
    tables = study()
    for trial in tables[0]["trial"]:
        tables = fail(tables, trial)
    return tables


def read_back(table: pd.DataFrame) -> pd.DataFrame:
    return pd.read_csv(StringIO(table.to_csv(index=False)))


def line_count(axes: Axes) -> int:
    (lines,) = labelled(axes, "configurations")
    assert isinstance(lines, LineCollection)
    return len(lines.get_segments())


def labelled(axes: Axes, label: str) -> list[object]:
    return [artist for artist in axes.get_children() if artist.get_label() == label]


def crosses(axes: Axes) -> list[tuple[float, float]]:
    """Where the crosses are, as fractions of the axes."""
    found = [artist for artist in labelled(axes, "diverged") if isinstance(artist, PathCollection)]
    return [(float(x), float(y)) for artist in found for x, y in np.asarray(artist.get_offsets())]


def legend_texts(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def updates_of(tables: Tables, winner: str | None = None) -> pd.DataFrame:
    return summarise_updates(summarise_curves(*tables, winner))


def draw_all(tables: Tables, winner: str | None) -> list[Figure]:
    curves = summarise_curves(*tables, winner)
    return [
        draw_comparison(curves),
        draw_heatmap(summarise_heatmap(tables[0], winner)),
        draw_updates(summarise_updates(curves)),
    ]


def assert_readable(picture: bytes) -> None:
    assert imread(BytesIO(picture)).shape[1] >= 900


@pytest.fixture(scope="module")
def tables() -> Tables:
    return study()


@pytest.mark.slow
def test_three_of_the_figures_are_also_readable_files(tmp_path: Path) -> None:
    write_plots(draw_sections(make_record(tmp_path)), Folder.at(tmp_path / "plots"))
    paths = sorted((tmp_path / "plots").iterdir())  # no temporary file is left
    assert [path.name for path in paths] == ["comparison.png", "heatmap.png", "updates.png"]
    for path in paths:
        assert_readable(path.read_bytes())


def test_drawing_leaves_the_tables_and_matplotlib_as_they_were(tables: Tables) -> None:
    before = [table.copy() for table in tables]
    names = [name for name in matplotlib.rcParams if name != "backend"]  # found when first read
    settings = {name: matplotlib.rcParams[name] for name in names}
    for figure in draw_all(tables, None):
        render_png(figure)
    for table, copy in zip(tables, before, strict=True):
        pd.testing.assert_frame_equal(table, copy)
    assert {name: matplotlib.rcParams[name] for name in names} == settings


def test_a_winner_that_is_no_trial_is_refused(tables: Tables) -> None:
    with pytest.raises(IndexError):
        summarise_curves(*tables, "lr7-bs7-seed7")
    with pytest.raises(IndexError):
        summarise_heatmap(tables[0], "lr7-bs7-seed7")


def test_each_configuration_is_one_line_in_each_panel(tables: Tables) -> None:
    figure = draw_comparison(summarise_curves(*tables, None))
    assert [axes.get_title("left") for axes in figure.axes] == list(PANELS.values())
    assert [line_count(axes) for axes in figure.axes] == [6, 6, 6, 6]


def test_axes_name_their_units(tables: Tables) -> None:
    comparison = draw_comparison(summarise_curves(*tables, None))
    labels = [axes.get_ylabel() for axes in comparison.axes]
    assert labels == ["loss (nats per image)", "", "accuracy", ""]
    updates = draw_updates(updates_of(tables)).axes[0]
    assert updates.get_ylabel() == "validation accuracy"
    assert updates.get_xlabel() == "updates (optimizer steps, log scale)"
    assert updates.get_xscale() == "log"


def test_epoch_ticks_are_whole_and_start_at_one() -> None:
    figure = draw_comparison(summarise_curves(*study([0.1], [32], epochs=60), None))
    low, high = figure.axes[2].get_xlim()
    ticks = [tick for tick in figure.axes[2].get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick >= 1 and tick == round(tick) for tick in ticks)


def test_the_legend_names_every_learning_rate_and_batch_size(tables: Tables) -> None:
    figure = draw_comparison(summarise_curves(*tables, None))
    assert legend_texts(figure) == [
        *("learning rate", "0.01", "0.1", "1"),
        *("batch size", "32", "512"),
    ]


def test_no_two_configurations_look_the_same() -> None:
    rates, sizes = np.logspace(-4, 0, 8), [2**power for power in range(3, 11)]
    encoding = Encoding(ValueScale.of("lr", rates), ValueScale.of("batch_size", sizes))
    assert len({tuple(colour) for colour in encoding.colours(encoding.first.values)}) == 8
    assert len({encoding.style(size) for size in sizes}) == 8
    assert len({encoding.marker(size) for size in sizes}) == 8


def test_colours_rise_in_lightness_with_the_learning_rate() -> None:
    rates = [0.001, 0.01, 0.1, 0.5, 1.0]
    encoding = Encoding(ValueScale.of("lr", rates), ValueScale.of("batch_size", [32]))
    lightness = encoding.colours(rates)[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0.02).all()
    assert lightness[-1] < 0.8  # still seen on white


def test_both_line_figures_use_the_same_keys(tables: Tables) -> None:
    comparison = summarise_curves(*tables, name_of(1.0, 32))
    updates = updates_of(tables, name_of(1.0, 32))
    assert Encoding.of(comparison) == Encoding.of(updates)
    assert legend_texts(draw_comparison(comparison)) == legend_texts(draw_updates(updates))


def test_the_winner_is_drawn_once_more_in_every_panel(tables: Tables) -> None:
    frame = summarise_curves(*tables, name_of(0.1, 512))
    assert {tuple(row) for row in frame.loc[frame["winner"], ["lr", "batch_size"]].to_numpy()} == {
        (0.1, 512)
    }
    figure = draw_comparison(frame)
    assert all(len(labelled(axes, "winner")) == 1 for axes in figure.axes)
    assert "winner" in legend_texts(figure)


def test_without_a_winner_nothing_is_emphasised(tables: Tables) -> None:
    figure = draw_comparison(summarise_curves(*tables, None))
    assert not any(labelled(axes, "winner") for axes in figure.axes)
    assert "winner" not in legend_texts(figure)


def test_seeds_become_their_mean_and_range() -> None:
    frame = updates_of(study([0.0], [32], seeds=[0, 1, 5]))
    assert frame["seeds"].tolist() == [3, 3, 3]
    np.testing.assert_allclose(frame["mean"], 0.92)
    np.testing.assert_allclose(frame["low"], 0.90)
    np.testing.assert_allclose(frame["high"], 0.95)


def test_a_band_is_drawn_only_where_there_are_several_seeds() -> None:
    for seeds, bands in ((1, 0), (3, 6)):
        frame = updates_of(study(seeds=range(seeds)))
        axes = draw_updates(frame).axes[0]
        areas = [each for each in axes.collections if isinstance(each, PolyCollection)]
        assert sum(len(each.get_paths()) for each in areas) == bands


def test_a_diverged_trial_is_drawn_as_such(tables: Tables) -> None:
    frame = summarise_curves(*diverge(tables, name_of(1.0, 32), 3), None)
    marked = frame[frame["diverged"]]
    assert marked["epoch"].tolist() == [2, 2, 2, 2]  # the last finite epoch, once per metric
    assert marked["mean"].notna().all()
    figure = draw_comparison(frame)
    assert [line_count(axes) for axes in figure.axes] == [6, 6, 6, 6]
    for axes in figure.axes:
        ((x, _),) = crosses(axes)
        assert x == pytest.approx(0.5)  # epoch 2 of 3
    assert "1 diverged\nfrom there on" in legend_texts(figure)


def test_a_trial_that_diverged_at_once_is_a_cross_at_the_edge(tables: Tables) -> None:
    frame = summarise_curves(*diverge(tables, name_of(1.0, 32), 1), None)
    figure = draw_comparison(frame)
    assert [line_count(axes) for axes in figure.axes] == [5, 5, 5, 5]
    heights = [crosses(axes)[0][1] for axes in figure.axes]
    assert all(height > 0.9 for height in heights[:2])  # the losses
    assert all(height < 0.1 for height in heights[2:])  # the accuracies


def test_a_diverged_seed_leaves_the_mean_of_the_others_and_a_cross() -> None:
    tables = diverge(study([0.0], [32], seeds=[0, 2]), name_of(0.0, 32, seed=2), 2)
    frame = updates_of(tables)
    np.testing.assert_allclose(frame["mean"], [0.91, 0.90, 0.90])
    assert frame["finite"].tolist() == [2, 1, 1]
    assert frame["diverged"].tolist() == [True, False, False]


def test_an_infinite_loss_counts_as_diverged(tables: Tables) -> None:
    trials, epochs = (table.copy() for table in tables)
    last = (epochs["trial"] == name_of(1.0, 32)) & (epochs["epoch"] == 3)
    epochs.loc[last, "train_loss"] = np.inf
    frame = summarise_curves(trials, epochs, None)
    assert frame.loc[frame["diverged"], "metric"].tolist() == ["train_loss"]


def test_a_trial_without_epochs_is_counted_in_the_legend(tables: Tables) -> None:
    frame = summarise_curves(*fail(tables, name_of(1.0, 32)), None)
    figure = draw_comparison(frame)
    assert [line_count(axes) for axes in figure.axes] == [5, 5, 5, 5]
    assert "1 without any\nepoch: not drawn" in legend_texts(figure)


def test_crosses_at_one_epoch_stand_side_by_side_inside_the_panel() -> None:
    figure = draw_comparison(summarise_curves(*all_diverged(), None))
    for axes in figure.axes:
        places = [x for x, _ in crosses(axes)]
        assert len(set(places)) == 6
        assert all(0 < x < 1 for x in places)
        assert texts(axes) == ["no finite value"]


def test_a_lone_epoch_is_drawn_as_points() -> None:
    frame = summarise_curves(*study(epochs=1), None)
    for axes in draw_comparison(frame).axes:
        points = [each for each in axes.collections if isinstance(each, PathCollection)]
        places = np.concatenate([np.asarray(each.get_offsets()) for each in points])
        assert len(places) == 6
        assert len(set(places[:, 0])) == 2  # a column per batch size


def test_losses_far_above_chance_do_not_squeeze_the_others(tables: Tables) -> None:
    trials, epochs = (table.copy() for table in tables)
    epochs.loc[0, "train_loss"] = 1e8
    figure = draw_comparison(summarise_curves(trials, epochs, None))
    assert figure.axes[0].get_ylim()[1] < 100
    assert figure.axes[0].get_ylabel() == "loss (nats per image; above 20 not shown)"


def test_the_accuracy_scale_tells_97_from_96_as_well_as_50_from_33() -> None:
    decades = error_decades([0.33, 0.50, 0.96, 0.97])
    assert np.diff(decades)[2] == pytest.approx(np.diff(decades)[0], rel=0.1)


def test_the_accuracy_scale_is_undone_by_its_inverse() -> None:
    accuracies = np.linspace(0, 1, 101)
    np.testing.assert_allclose(accuracy_at(error_decades(accuracies)), accuracies)


def test_many_configurations_get_a_colour_bar_and_thin_lines() -> None:
    tables = study(np.logspace(-4, 0, 20), [2**power for power in range(1, 11)], epochs=2)
    figure = draw_updates(updates_of(tables))
    panel, bar = figure.axes
    assert line_count(panel) == 200
    assert bar.get_title("left") == "learning rate"
    assert bar.get_yscale() == "log"
    assert legend_texts(figure) == ["batch size", "2", "16", "128", "1024"]


def test_the_heatmap_has_the_mean_of_the_completed_seeds() -> None:
    tables = diverge(study([0.0, 1.0], [32], seeds=[0, 2]), name_of(1.0, 32, seed=2), 2)
    frame = summarise_heatmap(tables[0], None)
    np.testing.assert_allclose(frame["accuracy"], [0.91, 0.91])
    assert frame["finished"].tolist() == [2, 1]
    axes = draw_heatmap(frame).axes[0]
    assert sorted(texts(axes)) == ["91.0%", "91.0%\n1 of 2 seeds"]


def test_a_cell_of_fewer_seeds_than_others_says_how_many() -> None:
    trials, _ = study([0.0, 1.0], [32], seeds=[0, 2])
    frame = summarise_heatmap(trials[:3], None)
    assert sorted(texts(draw_heatmap(frame).axes[0])) == ["91.0%", "91.0%\n1 seed"]


def test_the_heatmap_says_over_how_many_seeds() -> None:
    figure = draw_heatmap(summarise_heatmap(study(seeds=range(3))[0], None))
    assert "Validation accuracy after the last epoch, mean over 3 seeds" in [
        text.get_text() for text in figure.texts
    ]


def test_unfinished_cells_say_why(tables: Tables) -> None:
    changed = diverge(tables, name_of(1.0, 32), 2)
    changed = fail(changed, name_of(1.0, 512))
    trials, _ = fail(changed, name_of(0.1, 32), "stopped")
    frame = summarise_heatmap(trials[trials["trial"] != name_of(0.1, 512)], None)
    outcomes = dict(
        zip(zip(frame["lr"], frame["batch_size"], strict=True), frame["outcome"], strict=True)
    )
    assert outcomes == {
        (0.01, 32): "completed",
        (0.01, 512): "completed",
        (0.1, 32): "stopped",
        (0.1, 512): "not run",
        (1.0, 32): "diverged",
        (1.0, 512): "failed",
    }
    assert set(outcomes.values()) - {"completed"} <= set(texts(draw_heatmap(frame).axes[0]))


def test_a_stopped_trial_has_no_final_accuracy(tables: Tables) -> None:
    trials = tables[0].assign(status="stopped")
    assert summarise_heatmap(trials, None)["accuracy"].isna().all()


def test_the_heatmap_frames_the_winner(tables: Tables) -> None:
    frame = summarise_heatmap(tables[0], name_of(0.1, 512))
    axes = draw_heatmap(frame).axes[0]
    (square,) = labelled(axes, "winner")
    assert isinstance(square, Rectangle)
    # Largest learning rate on top: 0.1 is the second of three rows, 512 the second of two columns.
    assert square.get_xy() == (1, 1)


def test_cells_too_many_to_read_are_not_annotated() -> None:
    trials, _ = study(np.logspace(-4, 0, 30), range(10, 50), epochs=1)
    axes = draw_heatmap(summarise_heatmap(trials, trials["trial"].iloc[0])).axes[0]
    assert not texts(axes)
    assert len(axes.get_xticks()) <= 12
    assert len(axes.get_yticks()) <= 20
    assert len(labelled(axes, "winner")) == 1


def test_colours_tell_good_cells_apart_beside_a_bad_one() -> None:
    trials = study([0.01, 0.1, 1.0], [32])[0].assign(val_accuracy=[0.10, 0.95, 0.97])
    axes = draw_heatmap(summarise_heatmap(trials, None)).axes[0]
    colours = axes.collections[0].to_rgba(np.array([0.10, 0.95, 0.97]))
    assert np.abs(colours[2] - colours[1]).sum() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    "tables",
    [
        study([0.1], [32]),
        study([0.1], [32], epochs=1),
        study([0.1], [32, 64, 128]),
        study(seeds=[0, 1, 2], epochs=1),
        all_diverged(),
        none_finished(),
    ],
    ids=["one", "one-point", "one-lr", "seeds", "all-diverged", "none-finished"],
)
def test_any_study_read_back_from_csv_can_be_drawn(tables: Tables) -> None:
    trials, epochs = map(read_back, tables)
    completed = trials.loc[trials["status"] == "completed", "trial"]
    winner = None if completed.empty else str(completed.iloc[-1])
    for figure in draw_all((trials, epochs), winner):
        assert_readable(render_png(figure))


@pytest.mark.slow
def test_two_thousand_trials_can_be_drawn() -> None:
    tables = study(np.logspace(-4, 0, 40), range(8, 58), epochs=2)
    for figure in draw_all(tables, str(tables[0]["trial"].iloc[-1])):
        assert_readable(render_png(figure))
