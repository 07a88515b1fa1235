"""The device never waits for the host: what is read from it does not grow with the steps."""

import pytest

from playbook_jax.runtime import parallel
from playbook_jax.training import loop
from tests import small


@pytest.mark.playbook("no-hidden-synchronization")
@pytest.mark.parametrize("steps_per_call", [1, 8])
def test_reads_go_with_the_logging_intervals_and_not_with_the_steps(
    tmp_path, monkeypatch, steps_per_call
):
    reads = []

    def reads_of(steps):
        reads.clear()
        config = small.digits(
            max_train_steps=steps,
            eval_every_steps=1_000,
            log_every_steps=50,
            steps_per_call=steps_per_call,
            checkpoint__every_steps=1_000,
        )
        status = loop.train(config, tmp_path / str(steps))
        assert (status["state"], status["step"]) == ("COMPLETE", steps)
        return len(reads)

    first = parallel.first
    monkeypatch.setattr(parallel, "first", lambda tree: reads.append(tree) or first(tree))
    one_interval, three_intervals = reads_of(10), reads_of(150)
    assert reads_of(50) == one_interval
    # An interval is the block of records and the bad step.
    assert three_intervals - one_interval == 2 * 2
