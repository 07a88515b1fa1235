import numpy as np
import pytest

from playbook_jax import losses

LOGITS = np.random.default_rng(0).normal(0, 3, (50, 7)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 7, 50)


@pytest.mark.playbook("label-smoothing")
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_against_the_smoothed_target_in_float64(smoothing):
    logits = LOGITS.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = (1 - smoothing) * np.eye(7)[LABELS] + smoothing / 7
    loss, count = losses.cross_entropy(LOGITS, LABELS, smoothing)
    # Losses reach some tens of nats, of which float32 keeps seven digits.
    np.testing.assert_allclose(loss, -(target * log_p).sum(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(count, 1)


def test_cross_entropy_of_huge_logits_is_finite():
    loss, _ = losses.cross_entropy(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), np.zeros(2, int))
    np.testing.assert_array_equal(loss, [0.0, 1e4])


def test_error_rate_counts_wrong_predictions():
    wrong, count = losses.error_rate(LOGITS, LABELS)
    np.testing.assert_array_equal(wrong, LOGITS.argmax(axis=1) != LABELS)
    np.testing.assert_array_equal(count, 1)
