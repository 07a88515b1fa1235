"""A little SVG: elements as text, the marks of a plot, and text that keeps out of its way.

Colours, widths and fonts are the page's: elements have classes. An element with `data-t` belongs to
the trial of that number, and lights up with it.
"""

import html
from collections.abc import Iterable, Sequence

import numpy as np

# A five-pointed star of radius 1, as the playbook's figures have for the best trials.
_STAR = [
    (np.sin(k * np.pi / 5) * r, -np.cos(k * np.pi / 5) * r)
    for k, r in zip(range(10), [1, 0.45] * 5, strict=True)
]

# The shapes of the studies of a group: disc, square, triangle, diamond, triangle upside down, cross.
_MEMBERS = [
    [(np.cos(k * np.pi / 8), np.sin(k * np.pi / 8)) for k in range(16)],
    [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
    [(0, -1.3), (1.15, 0), (0, 1.3), (-1.15, 0)],
    [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
    [
        *[(-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)],
        *[(0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)],
    ],
]

_SHAPES = {
    "hollow": (
        "m-4.4-3.2 1.2-1.2 3.2 3.2 3.2-3.2 1.2 1.2-3.2 3.2 3.2 3.2-1.2 1.2-3.2-3.2-3.2 3.2-1.2-1.2 3.2-3.2z"
    ),
    "cross": "m-3.6-3.6 7.2 7.2m0-7.2-7.2 7.2",
    "up": "m0-5 4.4 8h-8.8z",
    "down": "m0 5 4.4-8h-8.8z",
    "square": "m-4.5-4.5h9v9h-9z",
}


def element(name: str, content: str = "", **attributes: object) -> str:
    """Returns an element. `_` in an attribute's name stands for `-`; a last one is dropped.

    Args:
      name: of the element.
      content: what it holds, as markup.
      **attributes: numbers are rounded to a tenth of a pixel, text is escaped, None is left out.
    """
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{text}>{content}</{name}>" if content else f"<{name}{text}/>"


def _attribute(value: object) -> str:
    return coordinate(value) if isinstance(value, float) else html.escape(str(value))


def coordinate(value: float) -> str:
    """Returns a length, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, class_: str, **attributes: object) -> str:
    """Returns a line of text, escaped."""
    return element("text", html.escape(words), class_=class_, x=float(x), y=float(y), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Returns a straight line."""
    path = f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}"
    return element("path", class_=class_, d=path)


def dot(x: float, y: float, radius: float, trial: int, class_: str | None = None) -> str:
    """Returns a trial's dot."""
    return element("circle", class_=class_, cx=float(x), cy=float(y), r=float(radius), data_t=trial)


def mark(kind: str, x: float, y: float, trial: int | None, class_: str) -> str:
    """Returns a trial's "cross", "hollow" cross, "square", or triangle "up" or "down"; None for a legend."""
    path = f"M{coordinate(x)} {coordinate(y)}{_SHAPES[kind]}"
    places = {} if trial is None else {"data_t": trial, "data_x": float(x), "data_y": float(y)}
    return element("path", class_=class_, d=path, **places)


def star(x: float, y: float, class_: str, size: float = 9.5, trial: int | None = None) -> str:
    """Returns a star, of a trial or for a legend."""
    points = " ".join(
        f"{coordinate(x + size * dx)} {coordinate(y + size * dy)}" for dx, dy in _STAR
    )
    places = {} if trial is None else {"data_t": trial, "data_x": float(x), "data_y": float(y)}
    return element("path", class_=class_, d=f"M{points}z", **places)


def member(x: float, y: float, radius: float, style: int, trial: int | None = None) -> str:
    """Returns a mark in the shape and the colour of a study among others, of one of its trials."""
    shape = _MEMBERS[style]
    points = "L".join(
        f"{coordinate(x + radius * a)} {coordinate(y + radius * b)}" for a, b in shape
    )
    places = {} if trial is None else {"data_t": trial, "data_x": float(x), "data_y": float(y)}
    return element("path", class_=f"mark m{style}", d=f"M{points}z", **places)


def area(x: np.ndarray, one: np.ndarray, other: np.ndarray, class_: str) -> str:
    """Returns the area between two lines that have the same horizontal coordinates."""
    ring = [*zip(x, one, strict=True), *zip(x[::-1], other[::-1], strict=True)]
    path = "L".join(f"{coordinate(a)} {coordinate(b)}" for a, b in ring)
    return element("path", class_=class_, d=f"M{path}z")


def curve(x: np.ndarray, y: np.ndarray, trial: int, class_: str | None = None) -> str:
    """Returns a trial's line through the points; it is broken where a coordinate is not finite."""
    parts, pen = [], "M"
    for a, b in zip(x, y, strict=True):
        if np.isfinite(a) and np.isfinite(b):
            parts.append(f"{pen}{coordinate(a)} {coordinate(b)}")
            pen = "L" if pen == "M" else " "
        else:
            pen = "M"
    return element("path", class_=class_, d="".join(parts), data_t=trial) if parts else ""


def picture(width: float, height: float, label: str, parts: Iterable[str], id_: str) -> str:
    """Returns an SVG element that scales with the page.

    Args:
      width: of its coordinates.
      height: likewise.
      label: what it shows, for those who cannot see it.
      parts: its elements.
      id_: its id in the page.
    """
    return element(
        "svg",
        "\n".join(part for part in parts if part),
        id=id_,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
    )


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns the places moved apart as little as keeps them `gap` from one another, within bounds."""
    order = np.argsort(places, kind="stable")
    moved = np.array(places, float)[order]
    for _ in range(100):
        close = np.diff(moved) < gap - 1e-6
        if not close.any():
            break
        for i in np.flatnonzero(close):
            middle = (moved[i] + moved[i + 1]) / 2
            moved[i], moved[i + 1] = middle - gap / 2, middle + gap / 2
        moved += max(0, low - moved[0]) - max(0, moved[-1] - high)
    result = np.empty(len(moved))
    result[order] = moved
    return result.tolist()


def free_place(
    x: float, y: float, taken: Sequence[tuple[float, float]], end: float
) -> tuple[float, float]:
    """Returns where to write a short label beside a mark: where it hits none of the places taken.

    Args:
      x: of the mark.
      y: of the mark.
      taken: the middles of marks and labels, the mark's own among them.
      end: the horizontal coordinate that the label must not cross.
    """
    places = [(x + 17, y), (x - 17, y), (x, y - 16), (x + 15, y - 12), (x - 15, y - 12)]
    inside = [place for place in places if place[0] < end - 6]
    free = [(a, b) for a, b in inside if all(abs(a - c) > 15 or abs(b - d) > 11 for c, d in taken)]
    return (free or inside)[0]
