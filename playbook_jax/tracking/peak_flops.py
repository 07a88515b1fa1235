"""What a device could do at most: dense products of bfloat16 matrices, in operations a second.

Where the hardware has no bfloat16, the figure is that of float16 (V100, T4). Sources: the pages of
https://cloud.google.com/tpu/docs for each TPU, and for GPUs NVIDIA's data sheets of 2017 to 2025, whose
figures "with sparsity" are halved. jax shows a chip of TPU v2, v3 and v7 as two devices, each of which has
half the chip's peak, and one of v4 and v5p as one.
"""

import re

# The first pattern that the device's kind begins with decides.
_PEAKS = (
    (r"TPU v2", 46e12 / 2),
    (r"TPU v3", 123e12 / 2),
    (r"TPU v4 lite", 138e12),
    (r"TPU v4", 275e12),
    (r"TPU v5 ?(lite|e)", 197e12),
    (r"TPU v5", 459e12),
    (r"TPU v6 ?(lite|e)", 918e12),
    (r"TPU7x", 2307e12 / 2),
    (r"(NVIDIA |Tesla )?V100-SXM", 125e12),
    (r"(NVIDIA |Tesla )?V100-PCIE", 112e12),
    (r"(NVIDIA |Tesla )?T4\b", 65e12),
    (r"NVIDIA A100", 312e12),
    (r"NVIDIA A10\b", 125e12),
    (r"NVIDIA H100 PCIe", 756e12),
    (r"NVIDIA H100 NVL", 835e12),
    (r"NVIDIA (H100|H200|GH200)", 989e12),
    (r"NVIDIA L4\b", 121e12),
    (r"NVIDIA L40S\b", 362e12),
    (r"NVIDIA B200", 2250e12),
    (r"NVIDIA GB200", 2500e12),
)


def of(device_kind: str) -> float | None:
    """Returns the peak of a `jax.Device.device_kind`, or None where it is not in the table."""
    return next((peak for pattern, peak in _PEAKS if re.match(pattern, device_kind)), None)
