"""`next_study.py`, beside the report: the config of the study that the findings ask for.

It is the study's own config with the changes that findings propose, each below a comment that names the
finding, and can be launched as it is. Where no finding is sure of a change there is no such file.

Source: playbook, "Extracting insight from experimental results": based on the answers, refine the most
recent study to improve the search space, then run it again before judging the original question.
"""

import ast
import json
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from playbook_jax import __version__, config as config_lib, trial as trial_lib
from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.findings import Finding
from playbook_jax.analysis.reports import commands
from playbook_jax.analysis.reports.next_draft import NAME, Change, Draft, draft
from playbook_jax.analysis.stats import decisions
from playbook_jax.errors import UnwritableError, UsageError
from playbook_jax.studies import specification as specification_lib
from playbook_jax.studies.specification import GROUP
from playbook_jax.studies.store import adoptions
from playbook_jax.tracking import sources

BASE = "next_study_base.json"  # the base config, where the file it came from has changed or is gone
_WIDTH = 100


def _beside(name: str) -> str:
    """Returns an expression for the path of a file beside the config."""
    return f"str(Path(__file__).with_name({json.dumps(name)}))"


def write(study: Study, found: list[Finding]) -> epath.Path | None:
    """Writes the next study's config into the study directory, see `save`."""
    return save(study, None if study.is_replicates else draft(study, found))


def save(study: Study, made: Draft | None) -> epath.Path | None:
    """Writes the next study's config into the study directory, or removes one that is out of date.

    The text is checked as the launcher checks it, and nothing is run: neither it nor a config that the study
    names, for the study may be of foreign hands. Where the base config is not known to be what it was
    when the study ran, the study's own goes beside it.

    Args:
      study: the study that it follows, or the studies of a group as one.
      made: what it is to be; None for nothing that can be launched.

    Returns:
      Its path; None where no finding asks for a change that can be made without asking, and where no
      config that can be launched comes of it (a warning then says why).

    Raises:
      UsageError: the directory can't be written.
    """
    path, base = study.directory / NAME, study.directory / BASE
    try:
        if made is not None and made.changes:
            beside = not _is_at_hand(study)
            text = source(study, made, _beside(BASE) if beside else "")
            _check(text, path, study)
            if beside:
                trial_lib.write_json(base, _base(study))
            else:
                base.unlink(missing_ok=True)
            trial_lib.write_text(path, text)
            return path
    except OSError as error:
        raise UnwritableError(f"cannot write {path}: {error.strerror or error}") from error
    except UsageError as error:
        print(f"warning: no {NAME} is written: {error}", file=sys.stderr)
    try:
        for old in (path, base):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise UnwritableError(f"cannot remove {path}: {error.strerror or error}") from error
    return None


def _check(text: str, path: epath.Path, study: Study) -> None:
    """Raises a UsageError where the launcher would refuse a config, which is read and not run."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assign)]
    assigned = {node.targets[0].attr: node.value for node in nodes if _sets_a_key(node)}
    del assigned["base_config"]  # it may be an expression
    try:
        values = {key: ast.literal_eval(value) for key, value in assigned.items()}
    except ValueError as error:
        raise UsageError(f"it would have a value that is none, {error}") from error
    base = config_lib.complete(config_lib.from_dict(_base(study)))
    specification_lib.parse(values | {"base_config": BASE}, Path(path), base)


def _sets_a_key(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Attribute)


def _is_at_hand(study: Study) -> bool:
    """Returns whether the base config can be named by its file: that has the text that it had then."""
    launch = adoptions.newest(study.directory)
    if launch:
        adopted = study.directory / adoptions.CONFIG_NAME
        return adopted.exists() and adoptions.is_config_of(adopted.read_text(), launch)
    named = study.specification.get("base_config_path")
    if not isinstance(named, str) or not study.trials:
        return False
    place = specification_lib.base_config_place(named)
    kept = sources.of(study.provenance(study.trials[0].number), sources.CONFIG)
    texts = [source["text"] for source in kept if Path(source["path"]).name == place.name]
    return place.is_file() and place.read_text(errors="replace") in texts


def _base(study: Study) -> dict[str, Any]:
    launch = adoptions.newest(study.directory)
    stored = launch.config if launch else study.specification.get("base_config") or {}
    try:
        return config_lib.with_optional(stored)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"study.json has no whole base config ({error})") from error


def source(study: Study, made: Draft, base: str = "") -> str:
    """Returns the config as Python.

    Args:
      study: the study that it follows.
      made: the changes.
      base: an expression for the path of the base config; empty for that of the trial that was adopted, or
        else for the study's own.
    """
    spec = study.specification
    if not base and adoptions.newest(study.directory):
        base = _beside(adoptions.CONFIG_NAME)
    lines = [*_docstring(study, made), ""]
    lines += ["from pathlib import Path", ""] if base else []
    lines += [
        "from ml_collections import ConfigDict",
        "",
        "",
        "def get_config() -> ConfigDict:",
        '    """Returns the study config."""',
        "    config = ConfigDict(convert_dict=False)  # names of hyperparameters have dots",
        f"    config.name = {_literal(commands.successor(study.name))}",
        *_goal(study.goal or study.name),
        f"    config.base_config = {base or _literal(spec.get('base_config_path', ''))}",
        f"    config.objective = {_literal(dict(spec['objective']))}",
    ]
    if made.num_trials:
        note = f"  # {made.trials_note}" if made.trials_note else ""
        lines.append(f"    config.num_trials = {made.num_trials}{note}")
    lines += _comment(made.algorithm_note) if made.algorithm_note else []
    lines += [
        f"    config.algorithm = {_literal(made.algorithm)}",
        f"    config.seed = {made.seed}  # other points than before",
    ]
    lines += [f"    config.shape = {_literal(GROUP)}"] if spec.get("shape") == GROUP else []
    for flag in ("vary_seed", "baseline"):
        lines += [f"    config.{flag} = True"] if spec.get(flag) else []
    lines += _roles(study, made)
    text = "\n".join([*lines, "    return config", ""])
    # Half a surrogate pair, which JSON can hold, cannot be written as UTF-8.
    return text.encode("utf-8", "replace").decode()


def _goal(text: str) -> list[str]:
    """Returns the question, on several lines where it is long."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH - 12:
            lines.append("")
        lines[-1] += f"{word} "
    lines[-1] = lines[-1][:-1]
    if len(lines) == 1:
        return [f"    config.goal = {_literal(text)}"]
    return ["    config.goal = (", *(f"        {_literal(line)}" for line in lines), "    )"]


def _docstring(study: Study, made: Draft) -> list[str]:
    ended = len(study.trials) - len(study.unfinished)
    command = " ".join(commands.launch_next(study))
    told = (
        f"Written with the report by playbook_jax {__version__} after {ended} of "
        f"{formatting.plural(len(study.trials), 'trial')}, and written anew with every report: copy it "
        "before you change it. Of each hyperparameter there is one decision: where two findings want "
        "different things, what leaves out failures comes first, then act before look."
    )
    lines = [
        f"The study after {study.name}, with what its findings change.",
        "",
        f"    {command}",
        "",
    ]
    lines += textwrap.wrap(_plain(told), _WIDTH)
    for title, items in _not_made(made):
        lines += ["", title, *items]
    text = "\n".join(_escaped(line) for line in lines)
    return f'"""{text}\n"""'.split("\n")


def _not_made(made: Draft) -> list[tuple[str, list[str]]]:
    """Returns what the config leaves out, under titles."""
    refused = [f"{change.text}: {change.refused} ({_because(change)})" for change in made.refused]
    left = [f"{f.answer} {f.action}" for f in made.left]
    return [
        (title, [line for text in texts for line in _item(text)])
        for title, texts in (
            ("Proposed, but not done:", refused),
            ("Asked for by findings, and not for a config to decide:", left),
        )
        if texts
    ]


def _item(text: str) -> list[str]:
    return textwrap.wrap(
        _plain(text), _WIDTH, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False
    )


def _roles(study: Study, made: Draft) -> list[str]:
    lines: list[str] = []
    for role in ("scientific", "nuisance"):
        entries = made.roles[role]
        shown = [*entries, *(c.proposal.name for c in made.optional if c.role == role)]
        if not shown:
            continue
        lines += ["", f"    config.{role} = {{"]
        for name in dict.fromkeys(shown):
            lines += _entry(made, name, entries.get(name))
        lines += ["    }"]
    shown = {c.proposal.name for c in made.optional if c.role == "fixed"}
    shown -= {name for entries in made.roles.values() for name in entries}
    if made.fixed or shown:
        reasons = study.specification.get("fixed_reasons")
        reasons = reasons if isinstance(reasons, Mapping) else {}
        lines += ["", "    config.fixed = {"]
        for name in [*made.fixed, *sorted(shown - made.fixed.keys())]:
            value = made.fixed.get(name)
            if name in reasons and name not in {c.proposal.name for c in made.changes}:
                value = {"value": value, "reason": reasons[name]}
            lines += _entry(made, name, value)
        lines += ["    }"]
    return lines


def _entry(made: Draft, name: str, value: Any) -> list[str]:
    """Returns a line of a dictionary below the reasons for it, and what else it might be."""
    lines: list[str] = []
    changes = [change for change in made.changes if change.proposal.name == name]
    if changes:
        reasons = " ".join(dict.fromkeys(map(_because, changes)))
        lines += _comment(f"{decisions.text(changes)}. {reasons}", 8)
    if value is not None:
        lines.append(f"        {_literal(name)}: {_literal(value)},")
    for change in made.optional:
        if change.proposal.name == name:
            varies = any(name in entries for entries in made.roles.values())
            move = ", in config.fixed and not here" if varies and change.role == "fixed" else ""
            text = change.text[0].lower() + change.text[1:] + move
            lines += _comment(f"Perhaps {text}. {_because(change)}", 8)
            lines += [f"        # {_literal(name)}: {_literal(change.after)},"]
    return lines


def _because(change: Change) -> str:
    return f"{change.finding.answer} [{change.finding.verdict}: {change.finding.question}]"


def _comment(text: str, indent: int = 4) -> list[str]:
    start = " " * indent + "# "
    return textwrap.wrap(
        _plain(text), _WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False
    )


def _plain(text: str) -> str:
    """Returns text on one line and without what a source file cannot hold."""
    text = " ".join(text.replace(formatting.NO_BREAK, " ").split())
    return "".join(c for c in text if c.isprintable())


def _escaped(line: str) -> str:
    """Returns a line that ends no docstring, whatever names and answers have in them."""
    indent = line[: len(line) - len(line.lstrip())]
    return indent + _plain(line).replace("\\", "\\\\").replace('"', '\\"')


def _literal(value: Any) -> str:
    """Returns a value as Python, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)
