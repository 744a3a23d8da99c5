"""What can be done about a reason for which channels are frozen."""

from __future__ import annotations

from graphprune.rules.labels import MEETS_NO_CHANNELS

_REMEDIES = {
    "output of the model": "The caller gets this size. If a part of the result may shrink, as features do, say which "
    "part must not: trace(..., outputs=...).",
    MEETS_NO_CHANNELS: "Nothing is to be done if that is the size of the model's input or a number of positions.",
    "operation without a rule": "Write a rule for the operation: docs/adding_a_rule.md.",
    "rows are looked up by number": "Nothing is to be done: the rows are words or classes, which numbers in the data "
    "mean.",
    "not used in the traced run": "Give example inputs that use it as well: trace(model, [inputs, others]).",
    "its entries are read as numbers": "Keep the values in tensors: .item(), .tolist(), float() and conditions of "
    "Python read them.",
    "its values decide what forward does": "Nothing is to be done: another input may be given them.",
    "is made anew by forward for inputs of another size": "If an earlier run left it, and forward makes it where it is "
    "None, set it to None before pruning; else make it once, for the longest input, in __init__.",
    "its module was compiled by TorchScript": "Trace the model before it is compiled.",
    "runs functions that are not looked into": "Call the function itself, not the operator that runs it.",
    "nested tensors have no sizes": "Trace the model with padded tensors instead of nested ones.",
    "made with a size that was not followed": "Make the tensor with the size of another tensor (x.shape[1]) or of a "
    "layer.",
    "is picked by its number": "Nothing is to be done if the program means that channel; else index a dimension "
    "without channels.",
    "becomes a tensor of its own": "Compute with all channels in one tensor, or take dimensions without channels "
    "apart.",
    "reshaped across several dimensions with channels": "Reshape one dimension of channels at a time.",
    "channels are arranged differently": "Bring both operands into the same order before they are combined.",
    "channels are composed differently": "Reshape both operands alike before they are combined.",
    "which forward does not read": "Leave the attribute out, or read it in forward, so that it can follow.",
    "another input may read what the traced run cuts away": "Nothing is to be done: longer inputs or others "
    "need these entries.",
    "are counted": "Nothing is to be done: the entries are what the operation counts.",
    "are numbered": "Nothing is to be done: the entries are what the operation counts.",
    "entries are picked by a mask": "Write torch.where(mask, changed, x) if entries are only changed, each by itself.",
    "returns the number of a channel": "Nothing is to be done if the program uses that number.",
}
"""By a part of the reason. Reasons that are not here say themselves what to write instead, or nothing is known."""


def remedy(reason: str) -> str:
    """What to do about a reason, in a sentence; empty: the reason says so itself, or nothing is known."""
    return next((text for part, text in _REMEDIES.items() if part in reason), "")
