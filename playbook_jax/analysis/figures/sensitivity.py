"""What each hyperparameter explains of the differences between trials, as bars."""

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.figures import Figure, Group
from playbook_jax.analysis.render import svg
from playbook_jax.analysis.stats import sensitivity
from playbook_jax.analysis.stats.sensitivity import Effect

ORDER = 18
MOST = 20  # bars; what explains less is left out
WIDTH, ROW, BAR, TOP = 470, 25, 15, 6  # of the picture and of a row
LABELS, WORDS = 176, 128  # widths left of the bars and right of the longest one
_LETTERS = 24  # of a name, that fit


def draw(study: Study) -> Group | None:
    """Returns the bars, or nothing where the trials do not tell what explains the objective."""
    found = sensitivity.analyze(study)
    if found is None or not found.told:
        return None
    effects = sorted([*found.effects, *found.pairs], key=lambda effect: -effect.share)[:MOST]
    scale = (WIDTH - LABELS - WORDS) / max(effects[0].share, 1e-9)
    parts = [part for row, effect in enumerate(effects) for part in _bar(row, effect, scale)]
    height = TOP + ROW * len(effects)
    base = svg.line(LABELS, 0, LABELS, height, "base")
    label = "what each hyperparameter explains of the differences between trials"
    figure = Figure(
        "sensitivity-effects",
        "",
        "",
        svg.picture(WIDTH, height, label, [*parts, base], "svg-sensitivity"),
        f"All together predict {formatting.percent(found.quality)} of the differences between trials that "
        "were left out of the fit.",
    )
    return Group(
        "sensitivity",
        "What matters",
        "How much of the differences between trials each hyperparameter explains, by a surface fitted to "
        "the ranks of their objectives; a pair (×): how much more together than each by itself.",
        (figure,),
    )


def _bar(row: int, effect: Effect, scale: float) -> list[str]:
    y, width = float(TOP + row * ROW), max(1.5, scale * effect.share)
    name = effect.label if len(effect.label) <= _LETTERS else effect.label[: _LETTERS - 1] + "…"
    words = formatting.percent(effect.share)
    words += "" if effect.matters else ", within noise" if effect.noise else ", may matter or not"
    text_y = y + BAR / 2 + 4
    return [
        svg.text(LABELS - 8, text_y, name, "name end"),
        svg.element(
            "rect",
            class_="hist" if effect.matters else "hist faint",
            x=float(LABELS),
            y=y,
            width=float(width),
            height=float(BAR),
        ),
        svg.text(LABELS + width + 7, text_y, words, "tick"),
    ]
