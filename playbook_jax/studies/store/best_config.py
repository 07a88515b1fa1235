"""Writes a training config as a Python file that a reader can read and `scripts/train.py` can run."""

import json
from collections.abc import Mapping
from typing import Any

from playbook_jax import config as config_lib
from playbook_jax.studies.space import search_space


def source(config: Mapping[str, Any], docstring: str) -> str:
    """Returns the text of a Python file whose `get_config()` gives `config`.

    Args:
      config: nested dictionaries, as `config.to_dict` gives them.
      docstring: what the file says of itself, of one or more lines.
    """
    text = docstring.replace("\\", "\\\\").replace('"""', "'''")
    return (
        f'"""{text}"""\n\n'
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config() -> ConfigDict:\n"
        '    """Returns the training config."""\n'
        "    return ConfigDict(\n"
        f"{_lines(_in_order(config), 8)}\n"
        "    )\n"
    )


def _in_order(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config with its keys in the order in which the configs have them."""
    names = [name for name in (*config_lib.REQUIRED, *config_lib.OPTIONAL) if name in config]
    return {name: config[name] for name in dict.fromkeys([*names, *config])}


def _lines(value: Any, indent: int) -> str:
    """Returns a dictionary, a key a line, as the formatter would have it."""
    pad = " " * indent
    rows = []
    for key, item in value.items():
        text = _lines(item, indent + 4).lstrip() if isinstance(item, Mapping) else _literal(item)
        rows.append(f"{pad}    {_literal(key)}: {text},")
    return "\n".join([f"{pad}{{", *rows, f"{pad}}}"]) if rows else f"{pad}{{}}"


def _literal(value: Any) -> str:
    value = search_space.freeze(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
