"""Run models as they are written."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def eagerly() -> Iterator[None]:
    """Nothing is compiled meanwhile, and inference mode is left.

    Compiled code hides its operations from hooks and dispatch modes. In inference mode those are not taken apart before
    a dispatch mode sees them, and tensors that are made can never be trained.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            gradients = torch.is_grad_enabled()
            stack.enter_context(torch.inference_mode(False))  # which would turn gradients on
            stack.enter_context(torch.set_grad_enabled(gradients))
        if "torch._dynamo" in sys.modules:  # nothing was compiled before it is loaded, which takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        yield
