"""A byte-level transformer on the text of Python's standard library.

    scripts/train.py --config=configs/stdlib_lm.py --workdir=/tmp/stdlib_lm

427,264 parameters see 4.3 of the 10 million bytes of training text. That took 6.4 minutes on two CPU cores
that did other work too. With seed 0 and Python 3.11.7 the validation loss ends at 1.284 nats a byte, which
is 1.85 bits, and 34 % of the guesses are wrong. On the same bytes, counted in the training text, single
bytes give 4.68 bits and pairs 3.53; zlib -9 packs the whole validation text into 1.95 bits a byte and xz -9e
into 1.59, but they look back further than the 128 bytes of an example here. All splits have some tables that
are much alike (those of `encodings`).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the training config."""
    config = ConfigDict()
    config.workload = "stdlib_lm"
    config.model = ConfigDict(
        {
            "num_layers": 2,
            "embedding_size": 128,
            "num_heads": 4,
            "feed_forward_size": 512,
            "positions": "rotary",  # or "learned"
            "tied_embeddings": True,  # the output layer is the embedding's transpose
            "norm": "layer",  # or "none"; batch norm would tell a byte about later ones
            "norm_placement": "pre",  # x + f(Norm(x)); or "res_post", "post"
            "zero_init_residual": False,  # True: the blocks begin as the identity
            "dtype": "float32",  # of the computation; or "bfloat16"
        }
    )
    config.dataset = ConfigDict(
        {
            "source": "memory",  # or "tf_data", which gives the same batches
            "num_shards": 0,  # 0: one a host
            "sequence_length": 128,  # bytes that an example predicts
            "train_bytes": 0,  # at most so many, evenly from all files; 0: all
            "evaluation_bytes": 65_536,  # the same for each of validation and test
        }
    )
    config.seed = 0  # initialization, order of the examples, dropout

    config.batch_size = 32  # on all devices together
    config.eval_batch_size = 64
    config.max_train_steps = 1_000
    config.eval_every_steps = 100
    config.eval_train_examples = 128
    config.log_every_steps = 100
    config.steps_per_call = 10

    config.checkpoint = ConfigDict(
        {
            "every_steps": 500,
            "keep_best": 1,
            "metric": "validation/loss",
            "mode": "min",
        }
    )

    config.optimizer = "adamw"
    config.schedule = "cosine"
    config.hparams = ConfigDict(
        {
            "learning_rate": 0.003,
            "warmup_steps": 50,  # prepended: the run grows by them
            "end_factor": 0.0,  # the last learning rate, as a fraction of the first
            "beta1": 0.9,
            "beta2": 0.99,
            "epsilon": 1e-8,
            "weight_decay": 0.1,
            "clip_norm": 1.0,  # 0: off
            "label_smoothing": 0.0,
            "dropout_rate": 0.0,
            "divergence_factor": 20.0,
        }
    )
    return config
