"""The digits study with some of its config changed, for the scripts that measure or kill studies."""

from pathlib import Path
from typing import Any

STUDY = Path(__file__).resolve().parent.parent / "configs" / "studies" / "digits_mlp.py"


def write_study(path: Path, **changes: Any) -> Path:
    """Writes the digits study with some keys of its config changed."""
    path.write_text(
        "from playbook_jax import config\n\n\ndef get_config():\n"
        f"    study = config.load_python({str(STUDY)!r}).copy_and_resolve_references()\n"
        f"    study.unlock().update({changes!r})\n"
        "    return study\n"
    )
    return path
