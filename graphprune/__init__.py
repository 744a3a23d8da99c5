"""Make neural networks physically smaller: trace, plan, apply, verify."""

from importlib import import_module
from typing import Any

from graphprune import errors as errors

__version__ = "0.1.0"

_PLACES = {
    "graphprune.advice.advice": "Advice",
    "graphprune.advice.advising": "advise",
    "graphprune.api": "ChannelGraph prune_model trace",
    "graphprune.calibration.process_batches": "across_processes",
    "graphprune.checkpoints.progress": "Progress",
    "graphprune.checkpoints.streaming": "prune_checkpoint",
    "graphprune.compaction.compacting": "compact zero_channels",
    "graphprune.compaction.record": "ZeroChannels",
    "graphprune.errors": (
        "BatchedSamplesWarning ChannelsKeptWarning DamagedTableWarning DenseWeightsWarning "
        "EndlessBatchesWarning ExportError GraphpruneError InputError LoadError MissingPackageError "
        "NoFloat64Error NothingRemovedWarning PlanError ProcessError RestartedStateWarning RuleError SaveError "
        "SearchInterruptedWarning SharedMemoryWarning SpecError TraceError UnfinishedScheduleWarning "
        "UnmeasuredGroupsWarning UnreachedWarning UnsavedValuesWarning UnsharedBatchesWarning VerificationError"
    ),
    "graphprune.export.bundle": "load save",
    "graphprune.export.gguf.writing": "GgufFile export_gguf",
    "graphprune.export.huggingface.deci": "export_deci",
    "graphprune.export.huggingface.stock_folder": "save_pretrained",
    "graphprune.export.loader": "export_loader",
    "graphprune.export.onnx": "OnnxFile export_onnx",
    "graphprune.export.source.exporting": "export_source",
    "graphprune.graph.budget_kinds": "budget_kind",
    "graphprune.graph.cost": "Cost",
    "graphprune.graph.groups": "Frozen Group",
    "graphprune.graph.rule_check": "check_rule",
    "graphprune.importance": "criterion",
    "graphprune.inspection.explaining": "Explanation",
    "graphprune.measurement.measuring": "measure",
    "graphprune.measurement.records": "Comparison Latency MeasuredLayer Measurement",
    "graphprune.planning.limits": "Override",
    "graphprune.planning.options": "PruningOptions",
    "graphprune.planning.sensitivity": "Sensitivity",
    "graphprune.planning.vocabulary": "prune_vocabulary",
    "graphprune.plots.layer_bars": "plot_latency plot_sparsity plot_widths",
    "graphprune.plots.sensitivity_curves": "plot_sensitivity",
    "graphprune.plots.trade_offs": "plot_accuracy",
    "graphprune.plots.weight_maps": "plot_weights",
    "graphprune.pruning.optimizer": "prune_in_place",
    "graphprune.pruning.plan": "Plan",
    "graphprune.pruning.token_map": "TokenMap",
    "graphprune.pruning.verification": "Verification verify",
    "graphprune.reconstruction.batch_norm": "reestimate_batch_norm",
    "graphprune.reconstruction.folding": "Folding fold",
    "graphprune.reconstruction.heads": "compensate_heads",
    "graphprune.reconstruction.layerwise": "reconstruct",
    "graphprune.reconstruction.pipeline": "repair",
    "graphprune.reconstruction.records": "Compensation Repair",
    "graphprune.reconstruction.synthetic_inputs": "synthesize",
    "graphprune.report.writing": "write_report",
    "graphprune.rotation.rotating": "rotate_streams",
    "graphprune.rules": "rule",
    "graphprune.sparsity.counting": "Sparsity sparsity_of",
    "graphprune.sparsity.masking": "sparsify",
    "graphprune.sparsity.permanent": "make_permanent",
    "graphprune.sparsity.semi_structured": "SemiStructured to_semi_structured",
    "graphprune.sparsity.sparse_files": "SparseFile load_sparse save_sparse",
    "graphprune.tracing.inputs": "MethodCall",
    "graphprune.training.checkpoint": "load_checkpoint save_checkpoint",
    "graphprune.training.finetuning": "finetune",
    "graphprune.training.gradual": "GradualPruner",
    "graphprune.training.gradual_sparsity": "GradualSparsifier",
    "graphprune.training.history": "History",
    "graphprune.training.iterative": "prune_iteratively",
    "graphprune.training.learning_rate": "Rewind",
    "graphprune.training.losses": "Distillation",
    "graphprune.training.regularization": "GroupLasso GrowingRegularization",
    "graphprune.training.rounds": "IterativeResult",
    "graphprune.training.schedules": "Gradual Iterative OneShot",
}
"""By module the public names that it defines. They are imported when they are first asked for, so that the command
line can answer before torch is loaded; ``__init__.pyi`` says the same to type checkers."""

_MODULES = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = sorted([*_MODULES, "errors"])


def __getattr__(name: str) -> Any:
    """A public name, or a room of the package."""
    if name in _MODULES:
        globals()[name] = found = getattr(import_module(_MODULES[name]), name)
        return found
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
