"""What a finding would change in the next study, for programs: `next_study` makes a config of it."""

import dataclasses
from typing import Any

# EXTEND and NARROW move a bound, KEEP holds it against other findings; LEAVE_OUT drops listed values;
# ADD makes a hyperparameter vary that did not; SET gives one value to whatever it names. ANSWER is for what
# was asked about, once it is decided: a search space, for its strength is nuisance from now on, or one value.
EXTEND, NARROW, KEEP, LEAVE_OUT, ADD, SET, ANSWER = KINDS = (
    "extend",
    "narrow",
    "keep",
    "leave out",
    "add",
    "set",
    "answer",
)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """One change of a study.

    Attributes:
      kind: one of KINDS.
      name: the hyperparameter's name in the study ("hparams.learning_rate"), or for SET any path of the
        training config.
      value: the new bound, or both where no side is told; the values to be left out, a tuple; the search
        space of what is added, as a study config has it; the value that is set. None for KEEP.
      side: of the bound, "low" or "high"; empty for what has none.
      sure: whether to make the change without asking. What is not sure is only shown.
      first: whether it comes before all other wishes: it leaves out where training fails, on strong evidence.
    """

    kind: str
    name: str
    value: Any = None
    side: str = ""
    sure: bool = True
    first: bool = False
