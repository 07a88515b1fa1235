"""The numbers by which checks judge, each with its reason, and the analysis config that sets them.

A module of the analysis declares a threshold beside what uses it,

    NOISES = Threshold("enough_trials.noises", 2.0, 0, 10, "standard deviations from the best")

and asks for it with `NOISES.of(study)`: a study carries what an analysis config has set, so that a check
stays a pure function of the study. Without a config every one is its default. The name is "section.name"
and stays the same when a module moves. `configs/analysis/default.py` lists them all.
"""

import dataclasses
import importlib
import math
import pkgutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from playbook_jax import analysis
from playbook_jax.errors import UsageError, closest

if TYPE_CHECKING:
    from playbook_jax.analysis.data.study import Study

Values = Mapping[str, float]  # what is set, by the threshold's name


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A number that a check judges by.

    Attributes:
      name: "enough_trials.noises".
      default: what it is unless it is set; if it is a whole number, it must stay one.
      low: the least that it may be.
      high: the most.
      meaning: what it is, and its source or its reason, in a sentence.
    """

    name: str
    default: float
    low: float
    high: float
    meaning: str

    def of(self, study: "Study") -> float:
        """Returns what it is for a study."""
        return study.thresholds.get(self.name, self.default)

    def check(self, value: object, where: str) -> float:
        """Returns a value that it may have.

        Raises:
          UsageError: it may not.
        """
        whole = isinstance(self.default, int)
        kind = "a whole number" if whole else "a number"
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            most = "" if math.isinf(self.high) else f" to {self.high:g}"
            bounds = f"{self.low:g}{most}" if most else f"{self.low:g} or more"
            raise UsageError(f"{where}: {self.name} must be {kind}, {bounds}; it is {value!r}")
        return value if whole else float(value)


def known() -> dict[str, Threshold]:
    """Returns all thresholds of the analysis by name, those of a section together."""
    found: dict[str, Threshold] = {}
    for module in pkgutil.walk_packages(analysis.__path__, f"{analysis.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Threshold):
                found.setdefault(value.name, value)
    sections = sorted(found, key=lambda name: name.partition(".")[0])
    return {name: found[name] for name in sections}


def load(path: str | Path) -> dict[str, float]:
    """Returns what an analysis config sets that is not the default.

    Args:
      path: a Python file whose `get_config()` gives a ConfigDict of sections, as
        `configs/analysis/default.py` has them; it may leave out whatever stays as it is.

    Raises:
      UsageError: there is no such file, or it sets what is not there or to what cannot be.
    """
    from playbook_jax import config as config_lib

    thresholds = known()
    given: dict[str, object] = {}
    for section, values in config_lib.load_python(path).to_dict().items():
        if not isinstance(values, Mapping):
            raise UsageError(f"{path}: {section} must be a section{closest(section, thresholds)}")
        given |= {f"{section}.{key}": value for key, value in values.items()}
    for name in given:
        if name not in thresholds:
            raise UsageError(
                f"{path}: no threshold {name!r}{closest(name, thresholds)}; "
                "configs/analysis/default.py lists them all"
            )
    checked = {name: thresholds[name].check(value, str(path)) for name, value in given.items()}
    return {name: value for name, value in checked.items() if value != thresholds[name].default}


def source() -> str:
    """Returns the text of `configs/analysis/default.py`: all thresholds, each with its meaning."""
    lines, section = [], ""
    for threshold in known().values():
        module, _, key = threshold.name.partition(".")
        if module != section:
            lines += ["", f"    config.{module} = ConfigDict()"]
            section = module
        words = threshold.meaning[0].upper() + threshold.meaning[1:]
        lines += [f"    # {line}" for line in textwrap.wrap(words, 92)]
        lines += [f"    config.{module}.{key} = {threshold.default!r}"]
    return _HEAD + "\n".join(lines) + "\n\n    return config\n"


_HEAD = '''"""What the checks of a report judge by: every threshold, its default, and why it is that.

    scripts/analyze.py --study=/tmp/study --analysis_config=configs/analysis/default.py

Copy this file and change what you want; whatever you leave out stays as it is here. What is set otherwise
is shown in the report and in findings.json. Written by tools/generate_docs.py from where the thresholds
are declared.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the analysis config."""
    config = ConfigDict()
'''
