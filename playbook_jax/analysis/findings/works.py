"""What decides whether training works: the interval outside of which trials fail, on both sides.

The first of two questions; what moves the objective among the trials that train is the second, `sensitivity`.
"""

from playbook_jax import trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.hyperparameters import HIGH, LOW, SIDES
from playbook_jax.analysis.data.proposals import Proposal
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.data.thresholds import Threshold
from playbook_jax.analysis.findings import ACT, CANNOT_TELL, FINE, LOOK, Finding, Question
from playbook_jax.analysis.stats import feasible
from playbook_jax.analysis.stats.feasible import End, Interval

ORDER = 22  # right after how many fail
LEAST = Threshold(
    "works.least",
    0.8,
    0,
    1,
    "where a smaller part of the trials trains, the sides on which they fail are cut off; with more, the "
    "space is good: it shows where its end is",
)
QUESTION = "What decides whether training works?"
SECTION = "Extracting insight from experimental results"
PLAYBOOK = ("infeasible-fraction",)


def check(study: Study) -> list[Finding]:
    """Returns outside of which interval training fails, and which bounds would leave that out.

    Source: playbook, "Extracting insight from experimental results": where a very large fraction of the
    points is infeasible, adjust the search space to avoid sampling such points, which sometimes requires
    reparameterizing it.
    """
    study = study.drawn
    ended, failures = len(study.failures) + len(study.learned), study.failures
    if not ended:
        return [_finding(CANNOT_TELL, "No trial has ended.")]
    if not failures:
        return [_finding(FINE, f"All {formatting.plural(ended, 'trial')} that ended train.")]
    if not study.learned:
        return [_finding(CANNOT_TELL, "No trial trains, so nothing tells apart what would.")]
    trials = tuple(t.number for t in failures)
    found, deciding = feasible.find(study), feasible.deciding(study)
    evidence = [_decided(deciding)] if deciding else []
    if not found:
        few = formatting.plural(len(failures), "trial that fails", "trials that fail")
        text = f"Where training fails cannot be told from {few}."
        return [_finding(CANNOT_TELL, text, evidence, trials=trials)]
    best = found[0]
    axes = [i for i in found if len(i.direction.names) == 1]
    told = [best, *axes[:1]] if best not in axes else [best]
    evidence = [text for i in told for end in i.ends for text in [_end(i, end)]] + evidence
    figures = tuple(f"axis-{name}" for name in best.direction.names)
    answer = _answer(study, best)
    if len(study.learned) >= LEAST.of(study) * ended:
        return [_finding(FINE, answer, evidence, trials=trials, figures=figures)]
    proposals = [proposal for _, proposal in feasible.narrowing(study)]
    if not proposals:
        action = _reparameterize(best) if len(best.direction.names) > 1 else ""
        verdict = LOOK if action else FINE
        return [_finding(verdict, answer, evidence, action, trials, figures=figures)]
    verdict = ACT if any(p.sure for p in proposals) else LOOK
    return [_finding(verdict, answer, evidence, search(proposals), trials, proposals, figures)]


def search(proposals: list[Proposal]) -> str:
    """Returns bounds in words, as in "Search learning_rate from 0.01 to 1.2"."""
    texts = []
    for name in dict.fromkeys(p.name for p in proposals):
        ends = {p.side: p.value for p in proposals if p.name == name}
        words = {LOW: "from {}", HIGH: "up to {}" if LOW not in ends else "to {}"}
        told = [words[side].format(formatting.value(ends[side])) for side in SIDES if side in ends]
        texts.append(f"{name.removeprefix('hparams.')} {' '.join(told)}")
    return f"Search {formatting.join(texts)}."


def _answer(study: Study, found: Interval) -> str:
    low, high = (found.end(side) for side in SIDES)
    show, label = found.direction.show, found.direction.label
    inside = found.ends[-1].inside
    outside = [
        sum(len(part) for e in found.ends for part in parts(e))
        for parts in (lambda e: [e.failures], lambda e: [e.failures, e.trained])
    ]
    told = (
        f"outside {formatting.share(outside[0], outside[1])} trials fail, inside "
        f"{formatting.share(inside[0], sum(inside))}"
    )
    if low and high:
        return f"Training works for {label} from {show(low.edge)} to {show(high.edge)}: {told}."
    where = f"down to {show(low.edge)}" if low else f"up to {show(high.edge)}"
    return f"Training works for {label} {where}: {told}."


def _end(found: Interval, end: End) -> str:
    number, all_ = len(end.failures), len(end.failures) + len(end.trained)
    beyond = "Below" if end.side == LOW else "Above"
    diverged = sum(t.state == trial_lib.INFEASIBLE for t in end.failures)
    kind = f"{formatting.count(diverged)} of them diverged" if diverged else "none of them diverged"
    others = formatting.share(end.inside[0], sum(end.inside))
    return (
        f"{beyond} {found.direction.label} {found.direction.show(end.edge)}, "
        f"{formatting.share(number, all_)} trials fail ({kind}), of the others {others}: by chance "
        f"{formatting.probability(end.exact)} (Fisher's exact test), over all cuts looked at "
        f"{formatting.probability(end.chance)}."
    )


def _decided(deciding: dict[str, float]) -> str:
    told = [
        f"{name.removeprefix('hparams.')} (by chance {formatting.probability(chance)})"
        for name, chance in sorted(deciding.items(), key=lambda item: item[1])
    ]
    return f"An additive fit to which trials fail: it depends on {formatting.some(told, 5)}."


def _reparameterize(found: Interval) -> str:
    shown = [
        f"{found.direction.show(e.edge)} {'or more' if e.side == LOW else 'or less'}"
        for e in found.ends
    ]
    return (
        f"No bound of one hyperparameter leaves these out: sample {found.direction.label} itself, at "
        f"{formatting.join(shown)}."
    )


_finding = Question(
    QUESTION,
    SECTION,
    advice=(
        "Trials that diverge and trials that learn nothing are failures of two kinds, on two sides. Search "
        "where training works, so that fewer points are wasted; sometimes that takes other parameters."
    ),
    playbook=PLAYBOOK,
).finding
