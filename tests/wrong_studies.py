"""Real studies that are sound, or wrong on purpose in one way, on the digits and on text.

`tools/make_wrong_studies.py` runs them; what a report reads of each is stored in tests/studies/.
"""

import dataclasses
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STORED = Path(__file__).parent / "stored_studies"
DIGITS, TEXT = "digits", "text"
RATE = "hparams.learning_rate"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A study.

    Attributes:
      workload: DIGITS or TEXT.
      mistake: what is wrong with it, in words; empty where nothing is.
      low: of the learning rate.
      high: likewise.
      fixed: what else differs from the sound study of the workload.
      trials: how many.
      nuisance: what is searched beside the learning rate.
    """

    workload: str
    mistake: str
    low: float
    high: float
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trials: int = 20
    nuisance: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_BASE = {DIGITS: "configs/digits_mlp.py", TEXT: "configs/stdlib_lm.py"}
_METRIC = {DIGITS: "validation/error_rate", TEXT: "validation/loss"}
_SMALL = {
    DIGITS: {
        "model.hidden_sizes": [64],
        "optimizer": "adam",
        "batch_size": 32,
        "max_train_steps": 240,
        "eval_every_steps": 8,
    },
    # A small transformer, and so little text that it can be learned by heart.
    TEXT: {
        "model.num_layers": 1,
        "model.embedding_size": 64,
        "model.num_heads": 2,
        "model.feed_forward_size": 128,
        "dataset.sequence_length": 32,
        "dataset.train_bytes": 8_192,
        "dataset.evaluation_bytes": 8_192,
        "batch_size": 16,
        "hparams.warmup_steps": 0,
        "hparams.clip_norm": 0.0,
        "max_train_steps": 240,
        "eval_every_steps": 8,
    },
}
_LONG = {"max_train_steps": 6000, "eval_every_steps": 120}
_SHORT = {"max_train_steps": 20, "eval_every_steps": 1}

RECIPES = {
    "digits_sound": Recipe(DIGITS, "", 1e-4, 1e-1),
    "digits_narrow": Recipe(DIGITS, "search space too narrow", 2e-4, 6e-4),
    "digits_low": Recipe(DIGITS, "search space too low", 1e-6, 3e-4),
    "digits_high": Recipe(DIGITS, "search space too high", 1.0, 1e3),
    "digits_constant": Recipe(DIGITS, "no decay", 1e-4, 1e-1, {"schedule": "constant"}),
    "digits_long": Recipe(DIGITS, "too long", 1e-4, 1e-1, _LONG),
    "digits_short": Recipe(DIGITS, "too short", 1e-4, 1e-1, _SHORT),
    "digits_tiny": Recipe(DIGITS, "search space far too low", 1e-10, 1e-7),
    "text_sound": Recipe(TEXT, "", 3e-4, 1e-1),
    "text_narrow": Recipe(TEXT, "search space too narrow", 3e-4, 1e-3),
    "text_low": Recipe(TEXT, "search space too low", 1e-6, 1e-3),
    "text_high": Recipe(TEXT, "search space too high", 1e-1, 1e3),
    "text_constant": Recipe(TEXT, "no decay", 3e-4, 1e-1, {"schedule": "constant"}),
    "text_long": Recipe(
        TEXT, "too long", 3e-4, 1e-1, {"max_train_steps": 4800, "eval_every_steps": 96}
    ),
    "text_short": Recipe(TEXT, "too short", 3e-4, 1e-1, _SHORT),
}


def source(name: str, root: Path) -> str:
    """Returns the study config of a recipe, as Python."""
    recipe = RECIPES[name]
    space = {RATE: {"scale": "log", "low": recipe.low, "high": recipe.high}, **recipe.nuisance}
    fixed = {**_SMALL[recipe.workload], **recipe.fixed}
    return f'''"""{recipe.mistake or "A sound study"}, for tests."""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict(convert_dict=False)
    config.name = {name!r}
    config.goal = "Which learning rate is best?"
    config.base_config = {str(root / _BASE[recipe.workload])!r}
    config.objective = {{"metric": {_METRIC[recipe.workload]!r}, "mode": "min"}}
    config.num_trials = {recipe.trials}
    config.nuisance = {space!r}
    config.fixed = {fixed!r}
    return config
'''


def pack(directory: Path) -> bytes:
    """Returns what a report judges of a study directory, compressed; the same bytes for the same study."""
    study = json.loads((directory / "study.json").read_text())
    base = Path(study["specification"]["base_config_path"])  # below some checkout
    study["specification"]["base_config_path"] = str(Path(*base.parts[-2:]))
    files = {"study.json": study}
    kind = study["specification"]["objective"]["metric"].rsplit("/", 1)[-1]
    for path in sorted(directory.glob("trials/*/status.json")):
        summary = json.loads((path.parent / "summary.json").read_text())
        name = str(path.parent.relative_to(directory))
        files[f"{name}/status.json"] = json.loads(path.read_text())
        files[f"{name}/summary.json"] = _trimmed(summary, kind)
    text = json.dumps(files, separators=(",", ":"), sort_keys=True)
    return gzip.compress(text.encode(), mtime=0)


def _trimmed(summary: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns a trial's summary with what checks read, in fewer digits: a thousandth of any noise here."""
    evaluations, curves = summary["evaluations"], summary["curves"]
    metrics = [f"{split}/{kind}" for split in ("train", "validation")]
    return {
        "steps": summary["steps"],
        "initial_loss": summary["initial_loss"],
        "clipped_fraction": summary["clipped_fraction"],
        "gradient_norm": {"percentiles": summary["gradient_norm"]["percentiles"]},
        "curves": {"step": curves["step"], "loss": _rounded(curves["loss"], 4)},
        "evaluations": {
            name: _rounded(evaluations[name], 5) if name in metrics else evaluations[name]
            for name in ("step", *metrics)
            if name in evaluations
        },
    }


def _rounded(values: list[float | None], digits: int) -> list[float | None]:
    return [v if v is None else float(f"{v:.{digits}g}") for v in values]


def unpack(name: str, directory: Path) -> Path:
    """Writes a stored study into a directory, and returns that."""
    files = json.loads(gzip.decompress((STORED / f"{name}.json.gz").read_bytes()))
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(json.dumps(content))
    return directory
