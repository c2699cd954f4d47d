"""Numbers and lists as sentences have them."""

from collections.abc import Iterable, Sequence


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_words(words: Sequence[str]) -> str:
    """Return words separated by commas, with "and" before the last."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def first_few(words: Iterable[str], most: int = 5) -> str:
    """Return the first words separated by semicolons, and how many more there are."""
    every = list(words)
    more = len(every) - most
    return "; ".join(every[:most]) + (f"; and {more} more" if more > 0 else "")


def percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction in per cent."""
    return f"{100 * fraction:.{digits}f}%"


def points(fraction: float) -> str:
    """Return the size of a difference of two fractions in percentage points."""
    return f"{abs(fraction) * 100:.2f} percentage points"
