"""What is known of a model before it is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NO_TIME = "no time was left"


@dataclass(frozen=True)
class GroupFacts:
    """One group of the graph.

    Attributes:
        name, role, units: as in :class:`graphprune.Group`.
        macs, params: the part of the model's MACs and parameters in which the group takes part; parts overlap.
        time: the part of the measured time of all kernels in which it takes part; None: not measured.
        saved: the part of that time that goes with half of the group; None: not measured.
        rise: by how much the loss rises when half of the group goes alone; None: not measured.
    """

    name: str
    role: str
    units: int
    macs: float
    params: float
    time: float | None = None
    saved: float | None = None
    rise: float | None = None


@dataclass(frozen=True)
class BlockFacts:
    """A residual block that can be left out whole.

    Attributes:
        path: its name.
        macs: its part of the model's MACs.
        influence: by how much it changes what goes through it (one minus the cosine), on the data; without data, the
            mean square of its parameters; None: there are no weights.
    """

    path: str
    macs: float
    influence: float | None = None


@dataclass(frozen=True)
class FrozenFacts:
    """A reason for which parameter axes cannot be pruned, how many, and the first of them."""

    reason: str
    axes: int
    example: str


@dataclass(frozen=True)
class DataFacts:
    """What the calibration data are.

    Attributes:
        batches: how many; ``samples`` entries of the first dimension of their tensors.
        labeled: do pairs (inputs, target) and a loss come with them?
        judged: what tells a good slim model from a bad one: ``"evaluate"``, ``"loss"``, ``"output"`` (the relative
            error of the outputs), or empty.
        held_out: how many batches judge and do not calibrate; 0: the same ones do both.
        dense: the loss of the dense model; None: not measured.
    """

    batches: int = 0
    samples: int = 0
    labeled: bool = False
    judged: str = ""
    held_out: int = 0
    dense: float | None = None


@dataclass(frozen=True)
class Timing:
    """Times on one device.

    Attributes:
        device: where.
        seconds: of a forward pass on the example inputs.
        kernels: of all kernels together, each alone; the rest is Python, memory and launches.
        half: the time of the kernels with half of every group, as a fraction of that with all; None: not measured.
        rounding: by a number, the time for one multiply-add where widths are odd multiples of it, as a fraction of the
            slowest of these numbers; empty: not measured.
    """

    device: str
    seconds: float
    kernels: float
    half: float | None = None
    rounding: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A plan that was made, applied, repaired and judged.

    Attributes:
        topic: the question that it was made for.
        choice: what differs from the plan before.
        arguments: those of the plan that answer this question.
        loss: of the slim model; None: there is no such plan.
        failure: why there is none.
    """

    topic: str
    choice: str
    arguments: Mapping[str, Any]
    loss: float | None
    failure: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """What was found about a model.

    Attributes:
        model: the name of its class.
        macs, params, bytes: what it costs.
        prunable: the part of its MACs and of its parameters that depends on a channel that can go.
        ends: the part of its MACs that its first and its last product have.
        groups: what can go, in the order of execution.
        frozen: why the rest cannot, the most frequent reason first.
        blocks: residual blocks that can be left out.
        batch_norms: how many normalizations have running statistics.
        zero_channels: the part of channels (rows of weights) that are all zero; None: there are no weights.
        zero_weights: the part of single weights that are zero; None: there are no weights.
        pruned: was it pruned by graphprune before?
        configured: does its class build it from a configuration?
        tokens: are its inputs whole numbers?
        on_meta: is it without weights?
        device: where its weights are.
        low_precision: do they have 16 bits or less?
        data: the calibration data.
        timing: None: not measured.
        can_train: may it be trained after it is pruned?
        trials: plans that were tried.
        share: the smallest part of the dense cost that a budget leaves, as it was asked for; None: not known.
        least: why the target is out of reach; empty: it is not.
        reachable: then, by kind, the smallest fractions of the dense cost that were reached.
        refused: why there is no plan at all; empty: there is one.
        unserved: why there is no plan with what the runtime needs; empty: there is one.
        met: is the model within the target as it is?
        unmeasured: what was not measured, and why.
        doubts: what looks wrong about what was given.
    """

    model: str
    macs: int
    params: int
    bytes: int
    prunable: tuple[float, float] = (1.0, 1.0)
    ends: tuple[float, float] = (0.0, 0.0)
    groups: tuple[GroupFacts, ...] = ()
    frozen: tuple[FrozenFacts, ...] = ()
    blocks: tuple[BlockFacts, ...] = ()
    batch_norms: int = 0
    zero_channels: float | None = 0.0
    zero_weights: float | None = 0.0
    pruned: bool = False
    configured: bool = False
    tokens: bool = False
    on_meta: bool = False
    device: str = "cpu"
    low_precision: bool = False
    data: DataFacts = DataFacts()
    timing: Timing | None = None
    can_train: bool = False
    trials: tuple[Trial, ...] = ()
    share: float | None = None
    least: str = ""
    reachable: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""
    unserved: str = ""
    met: bool = False
    unmeasured: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def prunes(self) -> bool:
        """Is there something to do, and can it be done?"""
        return bool(self.groups) and not self.refused and not self.met
