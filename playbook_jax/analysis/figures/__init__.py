"""Figures: one small file a kind of plot, found by listing the package.

A module of this package has

    ORDER = 20                                     where it comes in a report
    def draw(study: Study) -> Group | None: …      nothing where there is nothing to draw

so a plot of one's own is one more file. Figures are inline SVG: they need no script, and each mark of a
trial has `data-t`, by which the page lights up the same trial everywhere.
"""

import dataclasses
import importlib
import pkgutil

from playbook_jax.analysis.data.study import Study


@dataclasses.dataclass(frozen=True)
class Figure:
    """One plot.

    Attributes:
      id: its anchor in the page, which findings refer to.
      title: what it shows; empty where the picture says so itself.
      subtitle: a detail beside the title.
      svg: the picture, as markup.
      note: what must be known to read it, in a sentence or two.
      starts_row: whether it begins a new row where there is room for two.
    """

    id: str
    title: str
    subtitle: str
    svg: str
    note: str = ""
    starts_row: bool = False


@dataclasses.dataclass(frozen=True)
class Group:
    """Figures that belong together.

    Attributes:
      id: its anchor in the page.
      title: its heading.
      text: how to read the figures, in a sentence or two.
      figures: at least one.
      legend: the marks that are explained above the figures, keys of the page's legend.
      controls: markup above the figures, for the page's script.
    """

    id: str
    title: str
    text: str
    figures: tuple[Figure, ...]
    legend: tuple[str, ...] = ()
    controls: str = ""


def draw(study: Study) -> list[Group]:
    """Returns the figures of every module in this package, in their order."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    modules.sort(key=lambda module: (module.ORDER, module.__name__))
    groups = [module.draw(study) for module in modules]
    return [group for group in groups if group is not None]
