"""Watch sizes arrive in torch functions: the size half of tracing.

A :class:`SizeWatcher` sits above the recorder while the model runs. It answers ``.shape`` with sizes that
remember their tensor, and notes every size given to a function that takes one. Given to any other, it is a number.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from graphprune.tracing.size_tracking.numbers import of_numbers, product_of_sizes
from graphprune.tracing.size_tracking.reading import pickled
from graphprune.tracing.size_tracking.table import HANDLERS, handler_of_others
from graphprune.tracing.size_tracking.watcher import Lookup, SizeWatcher
from graphprune.tracing.sizes import SizeLog
from graphprune.utils.global_state import changing_globals, patched

_FUNCTIONS = ("log", "log2", "log10", "sqrt", "exp", "pow", "isclose")
"""Those of ``math`` that look at an integer, or at a floating-point number, past its methods."""


def _quiet_here(asked: Callable[..., bool]) -> Callable[..., bool]:
    """Always False in this thread; others are answered as ever."""
    thread = threading.get_ident()
    return lambda *args: threading.get_ident() != thread and asked(*args)


@contextmanager
def watching(log: SizeLog, node_of: Lookup) -> Iterator[None]:
    """Watch sizes within; the Python bodies of torch.nn.functional are watched too, not skipped over."""
    names = [name for name in vars(F) if name.startswith("has_torch_function")]
    quiet: dict[str, Any] = {name: _quiet_here(getattr(F, name)) for name in names}
    functions: dict[str, Any] = {name: of_numbers(getattr(math, name)) for name in _FUNCTIONS}
    with (
        changing_globals(),
        patched(F, **quiet),
        patched(math, **functions),
        patched(np, prod=product_of_sizes(np.prod)),
        patched(Tensor, __reduce_ex__=pickled(Tensor.__reduce_ex__)),
        SizeWatcher(log, node_of, HANDLERS, handler_of_others),
    ):
        yield
