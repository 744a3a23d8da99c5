"""Names of operators."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def short_name(op: Any) -> str:
    """``"addmm"`` for ``aten.addmm.default``."""
    return str(op._schema.name).split("::")[-1]
