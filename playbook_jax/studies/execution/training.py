"""What a worker trains with: one trial, several in one program, or a few steps to see what they take."""

from playbook_jax.training.loop import train, unread, validate
from playbook_jax.training.packing import Lane, train as train_pack
from playbook_jax.training.step_time import OUT_OF_MEMORY, measure as step_time

__all__ = ["OUT_OF_MEMORY", "Lane", "step_time", "train", "train_pack", "unread", "validate"]
