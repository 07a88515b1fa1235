"""How numbers and names are written in a report."""

import json
import math
from collections.abc import Sequence
from typing import Any

NO_BREAK = "\u00a0"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """Returns a number as one would type it: "0.0316", "1.2e-5", "1000", with `digits` digits.

    Just below 1 it has as many as show how far below: a momentum of 0.9987, and not of 0.999.
    """
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        if 0.9 < abs(value) < 1:
            decimals = max(decimals, 1 - math.floor(math.log10(1 - abs(value))))
        text = f"{value:.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def value(value: Any) -> str:
    """Returns a hyperparameter's value: numbers as `number` has them, lists as "64, 64"."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(globals()["value"], value)) or "none"
    return str(value)


def count(value: int) -> str:
    """Returns a number of steps or trials: "12,000"."""
    return f"{value:,}"


def percent(fraction: float) -> str:
    """Returns "35 %"."""
    text = f"{100 * fraction:.0f}"
    if 0.995 <= fraction < 1:
        text = "more than 99"
    return f"{text}{NO_BREAK}%"


def power_of_ten(exponent: int) -> str:
    """Returns "10⁻⁴"."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def join(words: Sequence[Any], last: str = "and") -> str:
    """Returns "3, 8 and 14"."""
    words = [str(word) for word in words]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def some(words: Sequence[Any], most: int = 8) -> str:
    """Returns the words joined, the ones beyond `most` as a number: "3, 8 and 12 others"."""
    if len(words) <= most:
        return join(words)
    return (
        f"{', '.join(str(word) for word in words[: most - 1])} and {len(words) - most + 1} others"
    )


def trials(numbers: Sequence[int], most: int = 8) -> str:
    """Returns "trial 3" or "trials 3, 8 and 14"."""
    return f"{'trial' if len(numbers) == 1 else 'trials'} {some(numbers, most)}"


def plural(amount: int, noun: str, nouns: str | None = None) -> str:
    """Returns "1 trial" or "3 trials"."""
    return f"{count(amount)} {noun if amount == 1 else nouns or noun + 's'}"


def metric_label(name: str) -> str:
    """Returns "validation error rate" for "validation/error_rate"."""
    return name.replace("/", " ").replace("_", " ").strip()


def is_rate(name: str) -> bool:
    """Says whether a metric is a fraction, to be shown in percent."""
    return name.rsplit("/", 1)[-1] in ("error_rate", "accuracy")


def metric(name: str, value: float) -> str:
    """Returns a metric's value: "1.67 %" for rates, else four digits."""
    return f"{100 * value:.2f}{NO_BREAK}%" if is_rate(name) else number(value, 4)


def probability(chance: float) -> str:
    """Returns "1 in 250"."""
    if chance < 1e-4:
        return "below 1 in 10,000"
    return percent(chance) if chance > 0.3 else f"1 in {count(round(1 / chance))}"


def share(part: int, whole: int) -> str:
    """Returns "all 4", "none of 4" or "3 of 4"."""
    if part == whole:
        return f"all {count(whole)}" if whole > 1 else "the one"
    return f"{count(part) if part else 'none'} of {count(whole)}"


def sentence(text: str) -> str:
    """Returns `text` with a capital letter in front and one full stop at the end."""
    return text[:1].upper() + text[1:].rstrip(".") + "."
