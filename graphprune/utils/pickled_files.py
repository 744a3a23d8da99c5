"""Files that ``torch.save`` wrote: what is in them besides tensors, so that their code would have to be run."""

from __future__ import annotations

import re


def refused_object(error: Exception) -> str:
    """The class of an object for which ``torch.load(weights_only=True)`` refused a file; empty: it did not.

    >>> refused_object(ValueError("no file"))
    ''
    """
    found = re.search(r"Unsupported (?:global|class).*?([\w.]+) was not an allowed", str(error))
    return found[1] if found else ""
