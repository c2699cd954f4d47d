import base64
import hashlib
import itertools
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from digitrec.cli.display import describe_verdict
from digitrec.cli.options import make_parser, make_request
from digitrec.results import outcome
from digitrec.results.analysis.finding import Finding
from digitrec.results.analysis.ranking import rank
from digitrec.results.analysis.verdict import reach_verdict
from digitrec.results.figures import comparison
from digitrec.results.figures.best_of_n import make_best_of_n
from digitrec.results.figures.confusion import make_confusion
from digitrec.results.figures.timings import make_timings
from digitrec.results.outcome import write_report
from digitrec.results.report import sections
from digitrec.results.report.markdown import code, make_markdown, plain
from digitrec.results.report.page import make_page
from digitrec.results.report.sections import draw_sections
from digitrec.results.report.summary import choose_columns, summarise
from digitrec.store.record import StudyRecord
from digitrec.store.tables import TRIAL_COLUMNS
from digitrec.store.timings import Timings
from tests.browser import emulate, needs_chromium
from tests.results.test_figures import KINDS
from tests.studies import LRS, VAL_ROWS, make_record

TRIALS = pd.DataFrame(columns=TRIAL_COLUMNS)
HEADINGS = {column.name: column.heading for column in choose_columns(TRIALS)}
HOSTILE = "</script><script>alert(1)</script>\"'`|_x_&amp;\n.csv"
WINNER = Finding(
    rule="winner", level="good", sentence="One is best.", evidence="p < 0.01", command=None
)
EDGE = Finding(
    rule="edge",
    level="caution",
    sentence="The best rate is the highest.",
    evidence="1.0 of 0.01, 0.1, 1.0",
    command="digitrec tune --lr 1.0,2.0,4.0 --out 'a  b'",
)


class Page(HTMLParser):
    """A page as its elements (tag, attributes) and its text, with every element closed."""

    VOID = {"meta", "link", "img", "br", "input"}

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def words_of(record: StudyRecord, *findings: Finding) -> tuple[Page, str]:
    """The page, without figures, and the Markdown of a report."""
    summary = summarise(record, findings)
    return Page(make_page(summary, [], [])), make_markdown(summary)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """A study with a whole report."""
    record = make_record(tmp_path_factory.mktemp("study"))
    write_report(record, [WINNER, EDGE], draw_sections(record))
    return record


@pytest.fixture(scope="module")
def source(reported: StudyRecord) -> str:
    """The page of a whole report."""
    return reported.directory.read("report.html").decode()


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_says_how_far_any_study_is(kind: str, tmp_path: Path) -> None:
    record = make_record(tmp_path, **KINDS[kind])
    page, markdown = words_of(record)
    assert len(page.all("tr")) == 1 + len(record.tables.trials)
    assert "There is nothing to conclude yet." in page.text
    has_winner = not rank(record.tables.trials).empty
    for text in (page.text, markdown):
        assert ("so there is no winner" in text) != has_winner
        assert ("Unfinished: " in text) != record.tables.complete


def test_an_accuracy_is_shown_once_a_trial_has_one(tmp_path: Path) -> None:
    untrained, trained = (
        make_record(tmp_path / name, untrained=rates)
        for name, rates in (("untrained", LRS), ("trained", LRS[1:]))
    )
    assert "validation accuracy" not in dict(summarise(untrained, []).facts)
    assert "validation accuracy" in dict(summarise(trained, []).facts)


def test_an_unfinished_study_says_what_is_missing(tmp_path: Path) -> None:
    record = make_record(tmp_path, diverged=[1.0], untrained=[0.1])
    page, markdown = words_of(record)
    said = "Unfinished: 4 of 6 trials trained (2 diverged) and 2 not trained yet."
    assert said in page.text
    assert said in markdown


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data") and value is not None
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {address for address in addresses if address[0] == "#"} <= {f"#{name}" for name in ids}


def test_the_page_lets_only_its_own_script_and_style_act(source: str, page: Page) -> None:
    (policy,) = (
        str(meta["content"])
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_every_picture_says_what_it_shows(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 12 + VAL_ROWS // 10  # the figures, and a tenth of the images mistaken
    assert all(image["alt"] and image["width"] and image["height"] for image in images)
    (confusion,) = (image for image in images if "misread" in str(image["alt"]))
    assert str(confusion["alt"]).startswith("20 of 100 images are misread.")


def test_a_share_is_spelled_in_one_way(page: Page) -> None:
    said = " ".join([page.text, *(str(image["alt"]) for image in page.all("img"))])
    assert re.search(r"\d%", said)
    assert not re.search(r"\d\s%", said)


def test_headings_and_landmarks_make_an_outline(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(len(page.all(tag)) == 1 for tag in ("header", "nav", "main", "footer"))
    assert page.all("html")[0]["lang"] == "en"


def test_the_table_is_marked_up_for_readers_that_do_not_see_it(page: Page) -> None:
    scopes = [heading.get("scope") for heading in page.all("th")]
    assert scopes == ["col"] * (len(HEADINGS) - 3) + ["row"] * 6  # no seed, status and epochs
    sorts = [heading["aria-sort"] for heading in page.all("th") if "aria-sort" in heading]
    assert sorts == ["ascending"]  # by rank


def test_the_verdict_has_sentence_evidence_and_command(tmp_path: Path) -> None:
    page, markdown = words_of(make_record(tmp_path), WINNER, EDGE)
    for finding, level in ((WINNER, "Good"), (EDGE, "Caution")):
        assert f"{level} {finding.sentence}" in page.text
        assert finding.evidence in page.text
        assert f"**{level}.** {finding.sentence}" in markdown
    assert EDGE.command is not None
    assert EDGE.command in page.text
    assert f"```sh\n{EDGE.command}\n```" in markdown


def test_nothing_that_came_with_the_data_becomes_markup(tmp_path: Path) -> None:
    record = make_record(tmp_path, source=HOSTILE, failed=[1.0])
    record.failures.update(dict.fromkeys(record.failures, f"Traceback\nError: {HOSTILE}"))
    finding = Finding(
        rule="winner", level="note", sentence=HOSTILE, evidence=HOSTILE, command=HOSTILE
    )
    page, markdown = words_of(record, finding)
    assert len(page.all("script")) == 1
    assert page.text.count("<script>alert(1)</script>") >= 5
    outside_code = re.sub(r"(?ms)^(`{3,})sh\n.*?^\1$", "", markdown)
    assert re.search(r"(?<!\\)<", outside_code) is None
    assert r"\<script\>alert(1)" in outside_code


def test_a_character_that_does_not_show_is_shown_as_an_escape(tmp_path: Path) -> None:
    source = "digits\x1b[31m\x07\u202e\n.csv"
    record = make_record(tmp_path, source=source, failed=[1.0])
    record.failures.update(dict.fromkeys(record.failures, f"Traceback\nError: {source}"))
    finding = Finding(
        rule="winner", level="note", sentence=source, evidence=source, command=f"tune {source}"
    )
    page = make_page(summarise(record, [finding]), [], [])
    lines = "\n".join(describe_verdict([finding]))
    for text in (page, make_markdown(summarise(record, [finding])), lines):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert r"\x1b" in text
        assert r"\u202e" in text
    assert r"digits\x1b[31m\x07\u202e\n.csv" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b and _c_", r"a_b and \_c\_"),
        ("x|y\nz", r"x\|y z"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        ("p = 0.01 (95%)", "p = 0.01 (95%)"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_backticks_do_not_end_a_block_of_code() -> None:
    assert code("a ``` b") == "````sh\na ``` b\n````"


@pytest.mark.parametrize("source", ["sample", "my data/it's.csv"])
def test_the_command_asks_the_question_again(source: str, tmp_path: Path) -> None:
    record = make_record(tmp_path / "a study", source=source)
    words = shlex.split(summarise(record, []).command)
    assert words[0] == "digitrec"
    request = make_request(make_parser().parse_args(words[1:]))
    asked = record.spec
    assert request.space.trials() == asked.trials()
    assert (request.data, request.epochs, request.val_fraction, request.precision) == (
        *(source, asked.epochs, asked.val_fraction, asked.precision),
    )
    assert request.out == str(record.directory)


def test_the_rows_are_ranked_and_those_without_a_rank_last(tmp_path: Path) -> None:
    record = make_record(tmp_path, diverged=[1.0], untrained=[0.01])
    summary = summarise(record, [])
    rows = summary.rows
    assert [row[0] for row in rows] == ["1", "2", "", "", "", ""]
    ranked = rank(record.tables.trials)["trial"].tolist()
    assert [row[1] for row in rows[:2]] == ranked
    untrained = dict(zip((column.name for column in summary.columns), rows[2], strict=True))
    assert untrained["status"] == "stopped"
    assert untrained["val_accuracy"] == ""


def test_a_seed_status_or_number_of_epochs_that_all_trials_share_has_no_column(
    tmp_path: Path,
) -> None:
    def columns(**kind: Any) -> set[str]:
        return {column.name for column in summarise(make_record(tmp_path, **kind), []).columns}

    assert {"seed", "status", "epochs"}.isdisjoint(columns())
    assert {"status", "epochs"} <= columns(diverged=[1.0])
    assert "seed" in columns(confirmed=[0.1])


def test_leaders_that_fresh_seeds_confirm_come_first(tmp_path: Path) -> None:
    summary = summarise(make_record(tmp_path, confirmed=[0.1]), [])
    assert [row[1] for row in summary.rows[:3]] == [
        "lr0.1-bs32-seed7",
        "lr0.1-bs32-seed0",
        "lr1.0-bs32-seed0",
    ]
    assert "The winner is lr 0.1, batch size 32" in summary.winner
    assert summary.ranking.startswith("Ranked by the mean over the fresh seeds")


def test_the_report_says_what_the_winner_scores_on_test_data(tmp_path: Path) -> None:
    test = {"source": "test.csv", "rows": 50, "accuracy": 0.84, "loss": 0.5}
    record = make_record(tmp_path, best={"test": test, "refit": {"rows": 500}})
    assert ("accuracy on 50 test images", "84.00%") in summarise(record, []).facts
    assert "It was then trained again on all 500 rows." in words_of(record)[1]


@pytest.mark.parametrize(
    ("best", "said"), [({"refit": {"rows": 500}}, 1), ({}, 0), ({"trial": "x", "refit": 3}, 0)]
)
def test_the_winners_figures_are_said_to_be_of_the_model_before_its_refit(
    tmp_path: Path, best: dict[str, Any], said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {("reached", ""): [make_best_of_n], ("winner", ""): [make_confusion]}
    monkeypatch.setattr(sections, "SECTIONS", two)
    record = make_record(tmp_path, best=best)
    page = Page(make_page(summarise(record, []), draw_sections(record), []))
    assert page.text.count("of the model before it was trained again on all 500 rows") == said


def test_what_an_earlier_winner_scored_is_not_the_winners(tmp_path: Path) -> None:
    test = {"source": "test.csv", "rows": 50, "accuracy": 0.84, "loss": 0.5}
    record = make_record(tmp_path, best={"trial": "lr9.0-bs32-seed0", "test": test})
    assert not any("test images" in name for name, _ in summarise(record, []).facts)


def test_verdict_page_and_markdown_name_the_winner_in_one_sentence(tmp_path: Path) -> None:
    record = make_record(tmp_path, best={})
    findings = reach_verdict(record)
    page, markdown = words_of(record, *findings)
    sentence = findings[0].sentence[: findings[0].sentence.index(").") + 2]
    assert sentence.startswith("The winner is lr 1.0, batch size 32: ")
    assert f"{sentence} The saved model was trained with seed 0." in page.text
    assert markdown.count(sentence) == 1


def test_failed_trials_of_one_error_are_told_once(tmp_path: Path) -> None:
    page, markdown = words_of(make_record(tmp_path, failed=[0.1]))
    (details,) = page.all("details")
    assert details is not None
    for text in (page.text, markdown):
        assert text.count("2 failed: RuntimeError: no room") == 1


@pytest.mark.slow
def test_the_same_record_gives_the_same_report(reported: StudyRecord) -> None:
    directory = reported.directory
    first = {name: directory.read(name) for name in directory.names()}
    assert list(first) == ["report.html", "report.md"]
    write_report(reported, [WINNER, EDGE], draw_sections(reported))
    assert {name: directory.read(name) for name in first} == first


@pytest.fixture(scope="module")
def two_thousand(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    record = make_record(
        tmp_path_factory.mktemp("many"),
        lrs=tuple(float(lr) for lr in np.logspace(-4, 0, 50)),
        batch_sizes=tuple(range(8, 48)),
        diverged=[1.0],
    )
    write_report(record, [WINNER, EDGE], draw_sections(record))
    return record


@pytest.mark.slow
def test_two_thousand_trials_fit_in_a_page(two_thousand: StudyRecord) -> None:
    content = two_thousand.directory.read("report.html")
    assert len(Page(content.decode()).all("tr")) == 2001
    assert len(content) < 5_000_000


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with diverged and missing trials."""
    directory = tmp_path_factory.mktemp("unfinished")
    record = make_record(directory, diverged=[1.0], untrained=[0.01])
    write_report(record, [WINNER, EDGE], draw_sections(record))
    return directory / "report.html"


@pytest.fixture
def shown(browser: webdriver.Chrome, unfinished: Path) -> webdriver.Chrome:
    """The unfinished report, opened anew."""
    browser.get(unfinished.as_uri())
    return browser


def column(browser: webdriver.Chrome, name: str) -> list[str]:
    """The cells of a column, top to bottom."""
    place = headings(browser).index(HEADINGS[name])
    cells: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#trials-table tbody tr')]"
        ".map((row) => row.cells[arguments[0]].textContent)",
        place,
    )
    return cells


def heading(browser: webdriver.Chrome, name: str) -> WebElement:
    place = headings(browser).index(HEADINGS[name])
    return browser.find_elements(By.CSS_SELECTOR, "#trials-table thead th")[place]


def headings(browser: webdriver.Chrome) -> list[str]:
    texts: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#trials-table thead th')]"
        ".map((heading) => heading.textContent)"
    )
    return texts


def press(element: WebElement, key: str = Keys.ENTER) -> None:
    element.find_element(By.TAG_NAME, "button").send_keys(key)


def status(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "shown").text


def choose(browser: webdriver.Chrome, label: str, value: str) -> None:
    path = f"//div[@id='filters']//label[starts-with(., '{label}')]/select"
    Select(browser.find_element(By.XPATH, path)).select_by_value(value)


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_an_error_and_fits_its_window(
    shown: webdriver.Chrome, scheme: str, width: int
) -> None:
    emulate(shown, scheme, width)
    shown.refresh()
    assert shown.get_log("browser") == []
    page_width, window_width = shown.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert page_width == window_width
    broken = "return [...document.images].filter((image) => !image.naturalWidth).length"
    assert shown.execute_script(broken) == 0


@needs_chromium
def test_on_a_phone_every_picture_fits_until_it_is_enlarged(shown: webdriver.Chrome) -> None:
    emulate(shown, "light", 400)
    shown.refresh()
    cut = (
        "return [...document.querySelectorAll('.picture')]"
        ".filter((each) => each.scrollWidth > each.clientWidth).length"
    )
    assert shown.execute_script(cut) == 0
    button = shown.find_element(By.CSS_SELECTOR, "#figure-comparison .enlarge")
    button.send_keys(Keys.ENTER)
    assert shown.execute_script(cut) == 1
    picture = shown.find_element(By.CSS_SELECTOR, "#figure-comparison .picture")
    assert picture.get_attribute("tabindex") == "0"
    button.send_keys(Keys.ENTER)
    assert shown.execute_script(cut) == 0
    assert picture.get_attribute("tabindex") is None
    emulate(shown, "light", 1280)
    assert not button.is_displayed()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(shown: webdriver.Chrome, scheme: str) -> None:
    emulate(shown, scheme, 1280)
    colours: dict[str, Any] = shown.execute_script(
        """const style = getComputedStyle(document.documentElement);
        const names = ["ink", "quiet", "accent", "good", "note", "caution", "ground", "surface"];
        return Object.fromEntries(names.map((n) => [n, style.getPropertyValue("--" + n).trim()]));
        """
    )
    for name in ("ink", "quiet", "accent", "good", "note", "caution"):
        for ground in ("ground", "surface"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of the Web Content Accessibility Guidelines 2."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(
            channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@needs_chromium
def test_a_heading_sorts_its_column_and_says_so(shown: webdriver.Chrome) -> None:
    before = column(shown, "trial")
    accuracy = heading(shown, "val_accuracy")
    press(accuracy)
    assert accuracy.get_attribute("aria-sort") == "descending"
    values = column(shown, "val_accuracy")
    assert values[:2] == sorted(values[:2], key=float, reverse=True)
    press(accuracy, Keys.SPACE)
    assert accuracy.get_attribute("aria-sort") == "ascending"
    assert column(shown, "val_accuracy")[:2] == values[1::-1]
    press(heading(shown, "rank"))
    assert accuracy.get_attribute("aria-sort") is None
    assert column(shown, "trial") == before


@needs_chromium
def test_missing_values_stay_last(shown: webdriver.Chrome) -> None:
    for _ in range(2):
        press(heading(shown, "val_loss"))
        assert column(shown, "val_loss")[2:] == [""] * 4


@needs_chromium
def test_numbers_are_sorted_as_numbers(shown: webdriver.Chrome) -> None:
    press(heading(shown, "batch_size"))
    assert column(shown, "batch_size") == ["32"] * 3 + ["128"] * 3


@needs_chromium
def test_filters_join_and_are_cleared(shown: webdriver.Chrome) -> None:
    assert status(shown) == "6 of 6 trials shown"
    choose(shown, "status", "diverged")
    assert status(shown) == "2 of 6 trials shown"
    choose(shown, "batch size", "128")
    assert column(shown, "trial") == ["lr1.0-bs128-seed0"]
    shown.find_element(By.ID, "reset").click()
    assert status(shown) == "6 of 6 trials shown"
    assert shown.switch_to.active_element.get_attribute("id") == "search"


@needs_chromium
def test_every_word_that_is_searched_for_is_in_the_row(shown: webdriver.Chrome) -> None:
    shown.find_element(By.ID, "search").send_keys("COMPLETED bs32")
    assert column(shown, "trial") == ["lr0.1-bs32-seed0"]
    shown.find_element(By.ID, "search").send_keys("x")
    assert column(shown, "trial") == []
    assert status(shown) == "0 of 6 trials shown"


@needs_chromium
def test_the_keyboard_reaches_everything_that_can_be_used(shown: webdriver.Chrome) -> None:
    shown.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    first = shown.switch_to.active_element
    assert first.text == "Skip to the report"
    first.send_keys(Keys.ENTER)
    assert shown.switch_to.active_element.get_attribute("id") == "content"
    shown.execute_script(
        "window.reached = []; addEventListener('focusin', (e) => reached.push(e.target))"
    )
    ActionChains(shown).send_keys(Keys.TAB * 60).perform()
    reached = {each.id for each in shown.execute_script("return reached")}
    for each in shown.find_elements(By.CSS_SELECTOR, "main button, main select, main input"):
        assert each.id in reached or not each.is_displayed()
    scroller = shown.find_element(By.CSS_SELECTOR, ".scroll")
    assert scroller.id in reached


@needs_chromium
def test_a_command_is_copied_as_it_is(shown: webdriver.Chrome) -> None:
    (button, _) = shown.find_elements(By.CSS_SELECTOR, ".copy")
    button.click()
    assert shown.execute_script("return arguments[0].previousSibling.textContent", button) == (
        EDGE.command
    )
    shown.execute_async_script("setTimeout(arguments[0], 100)")
    assert button.text in ("Copied", "Selected")


@needs_chromium
def test_of_many_trials_a_hundred_are_shown_until_all_are_asked_for(
    browser: webdriver.Chrome, two_thousand: StudyRecord
) -> None:
    browser.get(f"file://{two_thousand.directory}/report.html")
    assert status(browser) == "100 of 2,000 trials shown"
    press(heading(browser, "val_accuracy"))
    press(heading(browser, "val_accuracy"))
    lowest = sorted(
        two_thousand.tables.trials["val_accuracy"].dropna().map(lambda value: f"{100 * value:.2f}")
    )
    assert sorted(column(browser, "val_accuracy")) == lowest[:100]
    browser.find_element(By.CSS_SELECTOR, ".more").click()
    assert len(column(browser, "trial")) == 2000
    assert browser.get_log("browser") == []


@needs_chromium
def test_on_paper_every_row_and_picture_is_whole(shown: webdriver.Chrome) -> None:
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = shown.execute_script(
        "return ['nav', '#filters', '.copy'].map((selector) =>"
        " getComputedStyle(document.querySelector(selector)).display)"
    )
    assert hidden == ["none"] * 3
    assert len(shown.find_elements(By.CSS_SELECTOR, "tbody tr")) == 6
    pdf = base64.b64decode(shown.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.slow
def test_the_page_and_the_files_show_figures_that_are_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, draw = make_record(tmp_path), Mock(wraps=comparison.draw_comparison)
    monkeypatch.setattr(comparison, "draw_comparison", draw)
    monkeypatch.setattr(outcome, "read_record", lambda directory: record)
    outcome.conclude(record.directory)
    assert record.directory.read("plots/comparison.png")
    assert b"figure-comparison" in record.directory.read("report.html")
    draw.assert_called_once()


def test_a_later_report_shows_the_timings_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "SECTIONS", {("time", ""): [make_timings]})
    record = make_record(tmp_path)
    monkeypatch.setattr(outcome, "read_record", lambda directory: record)
    outcome.conclude(record.directory)
    assert b"Seconds: start Ray 2.0 and train 3.0." in record.directory.read("report.html")
    outcome.conclude(record.directory, timings=Timings({"train": 7.0}))
    assert b"Seconds: train 7.0 and write tables and model" in record.directory.read("report.html")
