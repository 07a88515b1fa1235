"""docs/studies.md says what is true: its pieces of study configs make studies."""

import re

import pytest

from playbook_jax.studies import group, specification, trial_points
from tests.small import ROOT

PIECES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(), re.DOTALL)
HEAD = """
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict(convert_dict=False)
    config.name = "page"
    config.goal = "Does the page tell the truth?"
    config.base_config = "configs/digits_mlp.py"
    config.objective = {"metric": "validation/loss", "mode": "min"}
    config.num_trials = 12
"""


def test_the_page_has_its_pieces():
    assert len(PIECES) == 8
    assert any('"group"' in piece for piece in PIECES)


@pytest.mark.parametrize("piece", PIECES, ids=range(len(PIECES)))
def test_a_piece_of_the_page_makes_a_study(piece, tmp_path):
    path = tmp_path / "page.py"
    body = "".join(f"    {line}\n" for line in piece.splitlines())
    path.write_text(f"{HEAD}{body}    return config\n")
    spec = specification.load(path)
    studies = [spec]
    if spec.shape == specification.GROUP:
        studies = [member.specification for member in group.members(spec)]
    for study in studies:
        rows = trial_points.points(study)
        assert len(rows) == study.num_trials
        for number, row in enumerate(rows):
            specification.trial_config(study.base_config, number, row, study.vary_seed)
