"""What a study came to in a few lines, for a terminal."""

import textwrap

from playbook_jax import trial as trial_lib
from playbook_jax.analysis import findings as findings_lib
from playbook_jax.analysis.data import failed, formatting
from playbook_jax.analysis.data.study import STATES, Study
from playbook_jax.analysis.findings import Finding
from playbook_jax.analysis.reports import commands, next_draft


def text(study: Study, findings: list[Finding], width: int = 100) -> str:
    """Returns how the trials ended, the best one, and a line or two a finding, what to do below it.

    Args:
      study: the study.
      findings: what was found.
      width: of a line, in characters.
    """
    counts, infeasible = failed.counts(study.trials), len(study.of_state(trial_lib.INFEASIBLE))
    words = {name: name.lower() for name in STATES}
    if failed.word(study.failures) != "infeasible":
        words[trial_lib.INFEASIBLE] = f"failed to train ({infeasible} infeasible)"
    states = ", ".join(f"{counts[name]} {words[name]}" for name in STATES if counts.get(name))
    lines = [f"{study.name}: {formatting.plural(len(study.trials), 'trial')}, {states or 'none'}"]
    if study.best is not None:
        best = study.best
        lines.append(
            f"Best: trial {best.number}, {formatting.metric_label(study.metric)} "
            f"{formatting.metric(study.metric, best.objective)} at step "
            f"{formatting.count(best.best_step)} of {formatting.count(best.step)}"
        )
    lines += filter(None, [thresholds(study), told(study, findings, width)])
    return "\n".join(lines).replace(formatting.NO_BREAK, " ")


def thresholds(study: Study) -> str:
    """Returns what an analysis config has set, in a line; empty where all is the default."""
    pairs = [
        f"{name} {formatting.value(value)}" for name, value in sorted(study.thresholds.items())
    ]
    return f"Set by {study.analysis_config}: {formatting.join(pairs)}." if pairs else ""


def brief(study: Study, findings: list[Finding], width: int = 100) -> str:
    """Returns what `told` does, with all that is fine in one line."""
    fine = sum(finding.verdict == findings_lib.FINE for finding in findings)
    others = [finding for finding in findings if finding.verdict != findings_lib.FINE]
    lines = [told(study, others, width)]
    if fine:
        lines.insert(0, f"{findings_lib.FINE:<{_margin()}}{formatting.plural(fine, 'question')}")
    return "\n".join(filter(None, lines))


def told(study: Study, findings: list[Finding], width: int = 100) -> str:
    """Returns the findings, and the command of the next study where its config lies beside the report."""
    lines = list(filter(None, [findings_text(findings, width)]))
    if (study.directory / next_draft.NAME).exists():
        lines.append(f"Next study: {' '.join(commands.launch_next(study))}")
    return "\n".join(lines)


def findings_text(findings: list[Finding], width: int = 100) -> str:
    """Returns a line or two a finding, what to do below it; of `width` characters at most."""
    margin = _margin()
    lines: list[str] = []
    for finding in findings:
        lines += _wrapped(f"{finding.verdict:<{margin}}", finding.answer, margin, width)
        if finding.action:
            lines += _wrapped(" " * margin + "Next: ", finding.action, margin, width)
    return "\n".join(lines).replace(formatting.NO_BREAK, " ")


def _margin() -> int:
    return max(map(len, findings_lib.VERDICTS)) + 2


def _wrapped(start: str, words: str, margin: int, width: int) -> list[str]:
    return textwrap.wrap(
        words,
        max(width, margin + 20),
        initial_indent=start,
        subsequent_indent=" " * margin,
        break_on_hyphens=False,
    )
