"""How certain a measured share is. Apart from `evaluation.py`, so that it doesn't take TensorFlow."""

import math
from statistics import NormalDist


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Compute the 95% interval for a share of `right` out of `count` (Wilson, 1927)."""
    z = NormalDist().inv_cdf(0.975)
    share = right / count
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (middle - half) / (1 + z**2 / count), (middle + half) / (1 + z**2 / count)
