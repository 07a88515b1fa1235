"""Which model this trains, on which data.

    scripts/train.py --config=configs/new_workload.py --workdir=/tmp/new_workload

Say here how long it takes and what to expect. As it stands, on made-up data: two seconds after the first
compilation on one CPU core, and a validation error near 25 % (always the same answer: 76 %).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the training config."""
    config = ConfigDict()
    config.workload = "new_workload"
    config.model = ConfigDict(
        {
            "hidden_sizes": (64, 64),
            "norm": "batch",  # or "layer", "none"
            "virtual_batch_size": 64,  # examples behind each statistic, whatever the batch size
            "dtype": "float32",  # of the computation; or "bfloat16"
        }
    )
    config.dataset = ConfigDict({"source": "memory", "num_shards": 0})
    config.seed = 0

    config.batch_size = 128  # on all devices together
    config.eval_batch_size = 512
    config.max_train_steps = 1_000
    config.eval_every_steps = 100
    config.log_every_steps = 250
    config.steps_per_call = 50  # 1 for convolutions on a CPU, where a loop slows them down
    config.checkpoint = ConfigDict(
        {"every_steps": 500, "keep_best": 1, "metric": "validation/error_rate", "mode": "min"}
    )

    config.optimizer = "adam"
    config.schedule = "cosine"
    # Scalars that enter the compiled step as values: none of them costs a compilation.
    config.hparams = ConfigDict(
        {
            "learning_rate": 0.003,
            "warmup_steps": 0,  # prepended: the run grows by them
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 1e-4,
            "clip_norm": 0.0,  # 0: off
            "label_smoothing": 0.0,
            "dropout_rate": 0.1,
        }
    )
    return config
