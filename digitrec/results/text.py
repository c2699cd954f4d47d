"""Numbers and lists as the sentences of the verdict, the figures and the report have them."""

from collections.abc import Iterable, Sequence

NO_WINNER = "no trial has completed, so there is no winner"


def count(number: int, noun: str) -> str:
    """Return a number and its noun: `1 trial`, `2,000 trials`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def join_words(words: Sequence[str]) -> str:
    """Return words with commas between them, and "and" before the last: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def first_few(words: Iterable[str], most: int = 5) -> str:
    """Return the first words, and how many are left out: `a; b; and 3 more`."""
    words = list(words)
    left_out = len(words) - most
    return "; ".join(words[:most] + ([f"and {left_out:,} more"] if left_out > 0 else []))


def percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction in per cent: `97.31%`."""
    return f"{fraction:.{digits}%}"


def points(fraction: float) -> str:
    """Return the size of a difference of two fractions: `0.42 percentage points`."""
    return f"{100 * abs(fraction):.2f} percentage points"


def duration(seconds: float) -> str:
    """Return `12 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
