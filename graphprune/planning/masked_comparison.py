"""Check the slim model of a model that looks at values: it is built for real and compared with the masked original.

Such a model has no one program that every slim model must run: what it does depends on its weights too. What it gives
on the example inputs must be what the original gives with the removed channels masked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from graphprune.graph.analysis import Analysis
from graphprune.planning.translation import ProgramDifference, Translation
from graphprune.pruning.plan import Plan
from graphprune.pruning.verification import largest_difference
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.arrays import Mask

ROUNDING = 1e-5
"""The largest relative difference that passes: numpy may compute in float32."""


Renumbering = Callable[[Plan], tuple[Plan, Sequence[MethodCall]]]
"""Of a plan that removes words of a vocabulary: it with the new ids of special tokens, and the examples in new ids."""


@dataclass(frozen=True, eq=False)
class MaskedComparison:
    """The outputs that slim models must have.

    Attributes:
        graph: the analyzed model, traced with real values.
        renumbered: what slim models are given instead of the examples; None: the examples.
    """

    graph: Analysis
    renumbered: Renumbering | None = None

    def difference(self, plan: Plan, alive: Mask) -> ProgramDifference | None:
        """How the slim model's outputs differ from the masked original's; None: not more than rounding.

        Args:
            plan: of the choice.
            alive: the classes that live; the plan says the same.
        """
        plan, calls = self.renumbered(plan) if self.renumbered is not None else (plan, self.graph.examples)
        slim = plan.apply(self.graph.model)
        try:
            found = largest_difference(self.graph, slim, plan, calls)
        except Exception as error:
            return ProgramDifference.failure(error)
        if found <= ROUNDING:
            return None
        return ProgramDifference(f"the outputs differ from the masked original's by {found:.1g}", "its result")


def slim_check(
    graph: Analysis, skipped: Sequence[str], zeroed: Collection[str], renumbered: Renumbering | None = None
) -> Translation | MaskedComparison:
    """What slim models must do: the traced program, or, of a model that looks at values, what it does masked.

    Args:
        graph: the analyzed model.
        skipped, zeroed: as for :class:`Translation`.
        renumbered: as for :class:`MaskedComparison`; on shapes alone, ids are all the same.
    """
    return Translation(graph, skipped, zeroed) if graph.trace.on_meta else MaskedComparison(graph, renumbered)
