"""Names for the numpy arrays that are passed around."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""Numbers of labels, classes, units or entries."""
Mask = NDArray[np.bool_]
"""One truth value for each of something, such as which classes live."""
Scores = NDArray[np.float64]
"""Importance, cost or another measure of each of something."""
Dims = frozenset[int]
"""Numbers of dimensions."""
Shape = tuple[int, ...]
"""Sizes of all dimensions."""
