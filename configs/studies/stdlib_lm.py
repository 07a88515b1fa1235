"""Where in the residual block of a transformer is the norm to be, once each place has its own learning rate?

    scripts/launch_study.py --config=configs/studies/stdlib_lm.py --workdir=/tmp/study

24 trials of a small, deep model took 9 minutes on two CPU cores that did other work too. The best of each
place, in nats a byte: pre 2.05 (learning rate 0.011), post 2.15 (0.0046), res_post 2.33 (0.017). What sets
them apart is the range: pre trains with all rates to 0.06, post does badly in all five trials from 0.007
on (2.91 and more), and ends from 0.026 on at 3.23, near what the mere frequencies of the bytes give.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the study config."""
    config = ConfigDict(convert_dict=False)  # names of hyperparameters have dots
    config.name = "stdlib_lm"
    config.goal = (
        "Does x + f(Norm(x)) reach a better validation loss than Norm(x + f(x)) and x + Norm(f(x)) "
        "in a short training of a small byte-level transformer, and over which learning rates?"
    )
    config.base_config = "configs/stdlib_lm.py"
    config.objective = {"metric": "validation/loss", "mode": "min"}
    config.num_trials = 24
    config.algorithm = "halton"
    config.seed = 0  # scrambles the points

    config.scientific = {"model.norm_placement": {"values": ["pre", "res_post", "post"]}}
    # Each place is to be judged at its own best learning rate. Some of these are meant to be too high.
    config.nuisance = {"hparams.learning_rate": {"scale": "log", "low": 3e-4, "high": 1e-1}}
    # The answer holds for this model, and for a warmup of this length.
    config.fixed = {
        "model.num_layers": 6,
        "model.embedding_size": 48,
        "model.feed_forward_size": 192,
        "dataset.sequence_length": 64,
        "dataset.evaluation_bytes": 32_768,
        "batch_size": 16,
        "max_train_steps": 250,
        "eval_every_steps": 50,
        "checkpoint.every_steps": 250,
        "hparams.warmup_steps": 20,
    }
    return config
