"""What the studies of a group show together: is their comparison fair, and which value is best?

The checks of each study alone come first, see `findings`; what they ask for is a reason to doubt the
comparison. Source: playbook, "Extracting insight from experimental results" ("before analyzing a given set of
experiments to make progress toward their original goal …").
"""

import dataclasses

from playbook_jax.analysis import findings
from playbook_jax.analysis.data.groups import Group
from playbook_jax.analysis.data.hyperparameters import Hyperparameter
from playbook_jax.analysis.data.study import Study
from playbook_jax.analysis.findings import ACT, LOOK, Finding, isolation
from playbook_jax.analysis.reports import group_fairness
from playbook_jax.analysis.stats.fairness import ABOVE, Doubt


@dataclasses.dataclass(frozen=True)
class Reading:
    """A group and what was found.

    Attributes:
      group: the group.
      found: what the checks of each study found, by the member's name.
      doubts: what speaks against the comparison.
      together: what all studies show together, the question of the group last.
    """

    group: Group
    found: dict[str, list[Finding]]
    doubts: list[Doubt]
    together: list[Finding]

    def problems(self, name: str) -> list[Finding]:
        """Returns what asks for something in a study itself, the pressing first."""
        asking = [f for f in findings.to_do(self.found[name]) if f.verdict in (ACT, LOOK)]
        return [f for f in asking if f.playbook != isolation.PLAYBOOK]


def read(group: Group) -> Reading:
    """Returns what the studies of a group show, alone and together."""
    found = {member.name: findings.check(member.study) for _, member in group.read}
    doubts = group_fairness.doubts(group, found)
    together = [group_fairness.check(group, found, doubts)]
    together += [isolation.of(study, h, [ABOVE] if doubts else []) for study, h in asked(group)]
    return Reading(group, found, doubts, together)


def asked(group: Group) -> list[tuple[Study, Hyperparameter]]:
    """Returns what is asked about, with the study that answers it: each scientific one, then all together."""
    each = [(group.joined, h) for h in group.scientific]
    return each + ([group.arms] if len(each) > 1 else [])
