from __future__ import annotations

import numpy as np
import pytest

from graphprune.utils.arrays import stable_order


@pytest.mark.parametrize(
    "values", [[3.0, 1.0, 2.0], [2.0, 1.0, 2.0, 1.0, 0.0], [], [1.0], [np.inf, np.nan, 0.0, np.nan]]
)
def test_equal_values_keep_their_order(values: list[float]) -> None:
    given = np.array(values, float)
    assert stable_order(given).tolist() == np.argsort(given, kind="stable").tolist()
