import pytest

from digitrec.results.text import count, duration, first_few, join_words, percent, points


def test_a_noun_is_plural_unless_there_is_one() -> None:
    assert [count(n, "trial") for n in (0, 1, 2, 2000)] == [
        "0 trials",
        "1 trial",
        "2 trials",
        "2,000 trials",
    ]


def test_words_are_joined_as_in_a_sentence() -> None:
    assert [join_words(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_words_beyond_the_first_few_are_counted() -> None:
    assert first_few("abc", 3) == "a; b; c"
    assert first_few("abcde", 2) == "a; b; and 3 more"


def test_fractions_are_written_in_per_cent_and_their_differences_in_points() -> None:
    assert percent(0.97312) == "97.31%"
    assert percent(0.5, 0) == "50%"
    assert points(0.0042) == points(-0.0042) == "0.42 percentage points"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(11.6, "12 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
