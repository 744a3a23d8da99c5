"""Make neural networks physically smaller: trace, plan, apply, verify."""

from graphprune import errors
from graphprune.advice.advice import Advice
from graphprune.advice.advising import advise
from graphprune.api import ChannelGraph, prune_model, trace
from graphprune.calibration.process_batches import across_processes
from graphprune.checkpoints.progress import Progress
from graphprune.checkpoints.streaming import prune_checkpoint
from graphprune.compaction.compacting import compact, zero_channels
from graphprune.compaction.record import ZeroChannels
from graphprune.errors import (
    BatchedSamplesWarning,
    ChannelsKeptWarning,
    DamagedTableWarning,
    DenseWeightsWarning,
    EndlessBatchesWarning,
    ExportError,
    GraphpruneError,
    InputError,
    LoadError,
    MissingPackageError,
    NoFloat64Error,
    NothingRemovedWarning,
    PlanError,
    ProcessError,
    RestartedStateWarning,
    RuleError,
    SaveError,
    SearchInterruptedWarning,
    SharedMemoryWarning,
    SpecError,
    TraceError,
    UnfinishedScheduleWarning,
    UnmeasuredGroupsWarning,
    UnreachedWarning,
    UnsavedValuesWarning,
    UnsharedBatchesWarning,
    VerificationError,
)
from graphprune.export.bundle import load, save
from graphprune.export.gguf.writing import GgufFile, export_gguf
from graphprune.export.huggingface.deci import export_deci
from graphprune.export.huggingface.stock_folder import save_pretrained
from graphprune.export.loader import export_loader
from graphprune.export.onnx import OnnxFile, export_onnx
from graphprune.export.source.exporting import export_source
from graphprune.graph.budget_kinds import budget_kind
from graphprune.graph.cost import Cost
from graphprune.graph.groups import Frozen, Group
from graphprune.graph.rule_check import check_rule
from graphprune.importance import criterion
from graphprune.inspection.explaining import Explanation
from graphprune.measurement.measuring import measure
from graphprune.measurement.records import Comparison, Latency, MeasuredLayer, Measurement
from graphprune.planning.limits import Override
from graphprune.planning.options import PruningOptions
from graphprune.planning.sensitivity import Sensitivity
from graphprune.planning.vocabulary import prune_vocabulary
from graphprune.plots.layer_bars import plot_latency, plot_sparsity, plot_widths
from graphprune.plots.sensitivity_curves import plot_sensitivity
from graphprune.plots.trade_offs import plot_accuracy
from graphprune.plots.weight_maps import plot_weights
from graphprune.pruning.optimizer import prune_in_place
from graphprune.pruning.plan import Plan
from graphprune.pruning.token_map import TokenMap
from graphprune.pruning.verification import Verification, verify
from graphprune.reconstruction.batch_norm import reestimate_batch_norm
from graphprune.reconstruction.folding import Folding, fold
from graphprune.reconstruction.heads import compensate_heads
from graphprune.reconstruction.layerwise import reconstruct
from graphprune.reconstruction.pipeline import repair
from graphprune.reconstruction.records import Compensation, Repair
from graphprune.reconstruction.synthetic_inputs import synthesize
from graphprune.report.writing import write_report
from graphprune.rotation.rotating import rotate_streams
from graphprune.rules import rule
from graphprune.sparsity.counting import Sparsity, sparsity_of
from graphprune.sparsity.masking import sparsify
from graphprune.sparsity.permanent import make_permanent
from graphprune.sparsity.semi_structured import SemiStructured, to_semi_structured
from graphprune.sparsity.sparse_files import SparseFile, load_sparse, save_sparse
from graphprune.tracing.inputs import MethodCall
from graphprune.training.checkpoint import load_checkpoint, save_checkpoint
from graphprune.training.finetuning import finetune
from graphprune.training.gradual import GradualPruner
from graphprune.training.gradual_sparsity import GradualSparsifier
from graphprune.training.history import History
from graphprune.training.iterative import prune_iteratively
from graphprune.training.learning_rate import Rewind
from graphprune.training.losses import Distillation
from graphprune.training.regularization import GroupLasso, GrowingRegularization
from graphprune.training.rounds import IterativeResult
from graphprune.training.schedules import Gradual, Iterative, OneShot

__version__: str
__all__ = [
    "Advice",
    "BatchedSamplesWarning",
    "ChannelGraph",
    "ChannelsKeptWarning",
    "Comparison",
    "Compensation",
    "Cost",
    "DamagedTableWarning",
    "DenseWeightsWarning",
    "Distillation",
    "EndlessBatchesWarning",
    "Explanation",
    "ExportError",
    "Folding",
    "Frozen",
    "GgufFile",
    "Gradual",
    "GradualPruner",
    "GradualSparsifier",
    "GraphpruneError",
    "Group",
    "GroupLasso",
    "GrowingRegularization",
    "History",
    "InputError",
    "Iterative",
    "IterativeResult",
    "Latency",
    "LoadError",
    "MeasuredLayer",
    "Measurement",
    "MethodCall",
    "MissingPackageError",
    "NoFloat64Error",
    "NothingRemovedWarning",
    "OneShot",
    "OnnxFile",
    "Override",
    "Plan",
    "PlanError",
    "ProcessError",
    "Progress",
    "PruningOptions",
    "Repair",
    "RestartedStateWarning",
    "Rewind",
    "RuleError",
    "SaveError",
    "SearchInterruptedWarning",
    "SemiStructured",
    "Sensitivity",
    "SharedMemoryWarning",
    "SparseFile",
    "Sparsity",
    "SpecError",
    "TokenMap",
    "TraceError",
    "UnfinishedScheduleWarning",
    "UnmeasuredGroupsWarning",
    "UnreachedWarning",
    "UnsavedValuesWarning",
    "UnsharedBatchesWarning",
    "Verification",
    "VerificationError",
    "ZeroChannels",
    "across_processes",
    "advise",
    "budget_kind",
    "check_rule",
    "compact",
    "compensate_heads",
    "criterion",
    "errors",
    "export_deci",
    "export_gguf",
    "export_loader",
    "export_onnx",
    "export_source",
    "finetune",
    "fold",
    "load",
    "load_checkpoint",
    "load_sparse",
    "make_permanent",
    "measure",
    "plot_accuracy",
    "plot_latency",
    "plot_sensitivity",
    "plot_sparsity",
    "plot_weights",
    "plot_widths",
    "prune_checkpoint",
    "prune_in_place",
    "prune_iteratively",
    "prune_model",
    "prune_vocabulary",
    "reconstruct",
    "reestimate_batch_norm",
    "repair",
    "rotate_streams",
    "rule",
    "save",
    "save_checkpoint",
    "save_pretrained",
    "save_sparse",
    "sparsify",
    "sparsity_of",
    "synthesize",
    "to_semi_structured",
    "trace",
    "verify",
    "write_report",
    "zero_channels",
]
