"""The exact commands that a report ends with: the best trial again, and what to type next."""

import dataclasses
import re
import shlex
from pathlib import Path

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.findings import ACT, LOOK, Finding
from playbook_jax.analysis.reports import next_draft
from playbook_jax.studies import overrides
from playbook_jax.studies.store import replicated

_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line and what it is for.

    Attributes:
      purpose: in a sentence.
      words: of the command, quoted for the shell.
      details: what more there is to say, a line each.
    """

    purpose: str
    words: tuple[str, ...]
    details: tuple[str, ...] = ()


def commands(study: Study, findings: list[Finding]) -> list[Command]:
    """Returns the commands that follow from a study, to be run in the checkout."""
    shown = display_path(study)
    found = []
    if study.unfinished:
        number = formatting.plural(len(study.unfinished), "trial")
        found.append(Command(f"Continue the study: {number} to go.", launch(study, shown)))
    if study.best is not None:
        number = study.best.number
        purpose = f"Train the best trial, {number}, again, bit for bit."
        found.append(Command(purpose, reproduce(study, number)))
    if (study.directory / next_draft.NAME).exists():
        changes = tuple(c.text for c in next_draft.draft(study, findings).changes)
        purpose = (
            f"Launch the next study. Its config, {next_draft.NAME}, was written with this report and has "
            f"{formatting.plural(len(changes), 'change')} that the findings ask for, each with the reason:"
        )
        found.append(Command(purpose, launch_next(study), changes))
    elif any(finding.verdict in (ACT, LOOK) for finding in findings):
        found.append(
            Command(
                "Change the study's config as the findings say, and launch it as a new study.",
                launch(study, successor(shown)),
            )
        )
    grows = {"grid": "", "list": "add points to the end of its list"}
    how = grows.get(study.specification.get("algorithm"), "raise num_trials in its config")
    if how and not study.unfinished and study.ranked:
        found.append(
            Command(
                f"Add trials to this study: {how}, then go on. The trials that exist stay as they are.",
                launch(study, shown),
            )
        )
    if study.best is not None and study.retrain is None and not study.is_replicates:
        purpose = (
            "See whether the best trial was luck: it, and the base config, again with other seeds."
        )
        found.append(Command(purpose, replicate(study)))
    found.append(Command("Write this report anew.", _analyze(study, shown)))
    return found


def replicate(study: Study) -> tuple[str, ...]:
    """Returns the command that trains the best trial, and the base config, again with other seeds."""
    shown, base = display_path(study), study.specification.get("base_config_path")
    words = ["scripts/replicate.py", f"--study={shown}"]
    words += [f"--baseline={base}"] if base and (_CHECKOUT / str(base)).is_file() else []
    return quote(*words, f"--workdir={shown}{replicated.SUFFIX}")


def _analyze(study: Study, shown: str) -> tuple[str, ...]:
    words = ["scripts/analyze.py", f"--study={shown}"]
    if study.analysis_config:
        words.append(f"--analysis_config={study.analysis_config}")
    if study.retrain is not None and study.retrain.trial is None:
        words.append(f"--replicates={study.retrain.workdir}")
    return quote(*words)


def reproduce(study: Study, number: int) -> tuple[str, ...]:
    """Returns the command that runs a trial again from its directory, and compares every bit."""
    shown = display_path(study)
    trial = f"--trial={shown}/trials/{number:03d}"
    return quote("scripts/reproduce.py", trial, f"--workdir={shown}_best")


def display_path(study: Study) -> str:
    """Returns the study's directory as one types it in the checkout: relative if it lies there."""
    text = str(study.directory)
    if "://" in text:
        return text.rstrip("/")
    path = Path(text).resolve()
    return str(path.relative_to(_CHECKOUT) if path.is_relative_to(_CHECKOUT) else path)


def launch_next(study: Study) -> tuple[str, ...]:
    """Returns the command that launches the config of the next study, see `next_study`."""
    shown = display_path(study)
    words = (f"--config={shown}/{next_draft.NAME}", f"--workdir={successor(shown)}")
    return quote("scripts/launch_study.py", *words)


def successor(name: str) -> str:
    """Returns the name of the study that follows: "digits_2" for "digits", then "digits_3"."""
    match = re.fullmatch(r"(.+)_([2-9]|1\d)", name, re.DOTALL)
    return f"{match[1]}_{int(match[2]) + 1}" if match else f"{name}_2"


def launch(study: Study, workdir: str) -> tuple[str, ...]:
    """Returns the command that launches a study's config into a directory."""
    config, *changed = _launched(study) or [""]
    if not config or not (_CHECKOUT / config).is_file():
        config, changed = f"configs/studies/{study.name}.py", []
    if not (_CHECKOUT / config).is_file():
        config = "YOUR_STUDY.py"
    words = [f"--config={config}", *changed, f"--workdir={workdir}"]
    return quote("scripts/launch_study.py", *words)


def _launched(study: Study) -> list[str]:
    """Returns the study config that the first trial was launched with, and overrides, where that is known."""
    number = next((trial.number for trial in study.trials if not trial.imported), 0)
    command = study.provenance(number).get("command")
    words = [word for word in command if isinstance(word, str)] if isinstance(command, list) else []
    if not words or not words[0].endswith("launch_study.py"):
        return []
    flags = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return [flags[-1], *overrides.split(words)[0]] if flags else []


def quote(*words: str) -> tuple[str, ...]:
    """Returns words as a shell takes them."""
    return tuple(map(shlex.quote, words))
