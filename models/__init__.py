"""Example networks, each whole in one file, with the groups that pruning is expected to find in it.

A file `models/x.py` has functions that build the network, and `EXPECTED_GROUPS` for the default one: entries
`(kind, units, members)`, written by hand from the architecture.

- `kind` is "channel" (an ordinary channel) or "row" (a whole attention head, key/value group or convolution
  group); all groups of these two kinds are listed, and none of the finer ones;
- `units` is how many of them can be removed one by one;
- `members` are axes "parameter_name[dim]" that shrink with each of them; there may be more.
"""

from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

__all__ = ["gpt", "hardnet", "mobilenet_v2", "resnet_cifar", "vit"]
