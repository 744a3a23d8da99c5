"""Every error that graphprune raises on purpose, so that callers can catch one base class, and its warnings."""

from __future__ import annotations


class GraphpruneError(Exception):
    """Base of all errors raised by graphprune."""


class InputError(GraphpruneError, ValueError):
    """An argument is not what the function needs; the message names it."""


class TraceError(GraphpruneError, RuntimeError):
    """The model could not be run to be analyzed."""


class PlanError(GraphpruneError, ValueError):
    """A plan cannot be made, or does not fit the model it is applied to."""


class VerificationError(GraphpruneError, RuntimeError):
    """A slim model is not the masked original, or nothing shows that it is. The message is the whole comparison."""


class LoadError(GraphpruneError, ValueError):
    """Saved files do not describe the model that they are loaded into."""


class ExportError(GraphpruneError, ValueError):
    """A form of file cannot hold a model; the message says why, and which other way there is."""


class SaveError(GraphpruneError, ValueError):
    """A model cannot be written such that it can be read again; nothing was written. The message says what to do."""


class ProcessError(GraphpruneError, RuntimeError):
    """Another process that shares the work failed, or does not answer; the message says which and how."""


class SpecError(GraphpruneError, ValueError):
    """A model specification on the command line names nothing that can be built."""


class RuleError(GraphpruneError, RuntimeError):
    """A rule contradicts itself or another one: a mistake in graphprune or in a user's rule."""


class NothingRemovedWarning(UserWarning):
    """Something was asked for, and the plan removes nothing for it; the message says why."""


class ChannelsKeptWarning(UserWarning):
    """Channels are zero, and cannot go without a change of the outputs; the message says which and why."""


class DamagedTableWarning(UserWarning):
    """The file of measured kernels is damaged; they are measured again, and the file is replaced."""


class UnreachedWarning(UserWarning):
    """No example runs what uses some parameters, and channels that they may belong to were removed; the message names
    them."""


class BatchedSamplesWarning(UserWarning):
    """The samples of a calibration batch cannot be told apart, so gradients are those of whole batches."""


class UnsharedBatchesWarning(UserWarning):
    """Calibration batches were dealt to processes, and each process uses its own alone."""
