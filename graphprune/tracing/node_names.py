"""Names of the nodes of a ``torch.fx`` graph: those that torch gives, found in less time."""

from __future__ import annotations

from functools import lru_cache

from torch.fx.graph import _Namespace


class NodeNames(_Namespace):
    """Looks at the letters of a name once and for all graphs; that takes longest with long names of parameters."""

    def create_name(self, candidate: str, obj: object | None) -> str:
        """See :class:`torch.fx.graph._Namespace`."""
        stem = _stem(candidate) if obj is None and candidate not in self._used_names else None
        if stem is None:
            return super().create_name(candidate, obj)
        base, number = stem
        self._used_names.add(candidate)
        self._base_count[base] = self._base_count.get(base, 0) if base == candidate else number
        return candidate


@lru_cache(maxsize=1 << 14)
def _stem(candidate: str) -> tuple[str, int] | None:
    """A name without the number at its end, and that number; None: no node can have the name."""
    names = _Namespace()
    if names.create_name(candidate, None) != candidate:
        return None
    (found,) = names._base_count.items()
    return found
