"""The public door of the training run: `train.train(config, workdir)` and `train.validate(config)`."""

from playbook_jax.training.loop import train, validate

__all__ = ["train", "validate"]
