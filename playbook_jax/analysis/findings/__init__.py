"""Findings: what a study shows, one small file a check.

A check is a module of this package with

    ORDER = 20                                     where it comes in a report
    def check(study: Study) -> list[Finding]: …    its findings, mostly one, whatever the study is

and is found by listing the package, so adding one is adding a file. Checks are pure functions of a
`Study`. Where no trial has learned anything, only those with OF_FAILURES = True ask for something. Each
threshold is a named constant with its source or its reason beside it.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence

from playbook_jax.analysis.data.proposals import Proposal
from playbook_jax.analysis.data.study import Study

FINE, LOOK, ACT, CANNOT_TELL = VERDICTS = ("fine", "look", "act", "cannot tell")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One answer to one of the playbook's questions about a study. All text is plain text.

    Attributes:
      question: what was asked.
      verdict: one of VERDICTS.
      answer: the answer, in one line; for CANNOT_TELL, why not.
      evidence: the numbers behind it, naming trials.
      action: what to do next, as an imperative sentence; empty where there is nothing to do.
      advice: what the playbook says about it, in our words.
      section: the title of the playbook's section that says so.
      open_question: what of this the playbook itself calls speculative or open; empty for nothing.
      trials: the trials it rests on.
      figures: the ids of the figures that show it.
      playbook: the ids of the rows of playbook.toml that it answers.
      proposals: what it would change in the next study.
    """

    question: str
    verdict: str
    answer: str
    evidence: tuple[str, ...] = ()
    action: str = ""
    advice: str = ""
    section: str = ""
    open_question: str = ""
    trials: tuple[int, ...] = ()
    figures: tuple[str, ...] = ()
    playbook: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()


@dataclasses.dataclass(frozen=True)
class Question:
    """What a check asks, and what all of its answers share; the fields are a `Finding`'s.

    Attributes:
      question: see `Finding`.
      section: see `Finding`.
      advice: goes with the answers that ask for an action, like the next one.
      open_question: see `Finding`.
      figures: see `Finding`.
      playbook: see `Finding`.
    """

    question: str
    section: str
    advice: str
    open_question: str = ""
    figures: tuple[str, ...] = ()
    playbook: tuple[str, ...] = ()

    def finding(
        self,
        verdict: str,
        answer: str,
        evidence: Sequence[str] = (),
        action: str = "",
        trials: tuple[int, ...] = (),
        proposals: Sequence[Proposal] = (),
        figures: tuple[str, ...] | None = None,
    ) -> Finding:
        """Returns an answer to the question; `figures` are those of the question unless told."""
        return Finding(
            question=self.question,
            verdict=verdict,
            answer=answer,
            evidence=tuple(evidence),
            action=action,
            advice=self.advice if action else "",
            section=self.section,
            open_question=self.open_question if action else "",
            trials=trials,
            figures=self.figures if figures is None else figures,
            playbook=self.playbook,
            proposals=tuple(proposals),
        )


def check(study: Study) -> list[Finding]:
    """Returns the findings of every check in this package, in their order.

    What was decided otherwise, see `decisions`, none of them asks for.
    """
    from playbook_jax.analysis.stats import decisions  # it needs to know what a finding is

    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    modules.sort(key=lambda module: (module.ORDER, module.__name__))
    found = []
    for module in modules:
        of_failures = getattr(module, "OF_FAILURES", False)
        told = module.check(study)
        found += told if of_failures or study.learned or not study.ranked else map(_unlearned, told)
    return decisions.worded(study, found)


def _unlearned(finding: Finding) -> Finding:
    """Returns what is left of a finding where no complete trial has learned anything: nothing to do."""
    if not finding.action and finding.verdict not in (ACT, LOOK):
        return finding
    return dataclasses.replace(
        finding,
        verdict=CANNOT_TELL,
        answer="No trial that is complete has learned anything: first make one that does.",
        action="",
        advice="",
        open_question="",
        evidence=(),
        trials=(),
        figures=(),
        proposals=(),
    )


def to_do(findings: list[Finding]) -> list[Finding]:
    """Returns the findings that ask for something, the pressing ones first."""
    verdicts = (ACT, LOOK, CANNOT_TELL)
    return [f for verdict in verdicts for f in findings if f.verdict == verdict and f.action]
