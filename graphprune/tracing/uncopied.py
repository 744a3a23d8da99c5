"""What the traced copy of a model has in place of attributes that cannot be copied."""

from __future__ import annotations

import io
from typing import Any, NoReturn

from torch.utils._pytree import tree_leaves

from graphprune.errors import TraceError


def stand_in(path: str, value: Any, error: Exception) -> Any:
    """The very file, which the traced run writes to as any run does; of anything else an :class:`Uncopied`."""
    return value if isinstance(value, io.IOBase) else Uncopied(path, value, error)


class Uncopied:
    """An attribute that could not be copied. Nobody can tell what it would have answered: using it is an error."""

    def __init__(self, path: str, value: Any, error: Exception) -> None:
        self._path, self._kind, self._error = path, type(value).__name__, error

    def __deepcopy__(self, memo: dict[int, Any]) -> Uncopied:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # what Python looks for by itself
        self._refuse()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation of torch that is given one."""
        next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, cls))._refuse()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TraceError(
            f"{self._path}: forward uses this {self._kind}, which cannot be copied ({self._error})",
            where=self._path,
            found=f"a {self._kind}, of which Python says: {self._error}",
            needed="attributes that copy.deepcopy can copy, since tracing would change the model's own",
            do="make it in forward, or pass it as an input",
        )


for _name in "call iter next enter exit len getitem setitem contains bool float int array".split():
    setattr(Uncopied, f"__{_name}__", Uncopied._refuse)
