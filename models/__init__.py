"""Example networks, each whole in one file, with the groups that pruning is expected to find in it.

A file `models/x.py` has functions that build the network, and for the default one:

- `EXPECTED_GROUPS`: entries `(kind, units, members)`, written by hand from the architecture. `kind` is
  "channel" (an ordinary channel) or "row" (a whole attention head, key/value group or convolution group);
  `units` is how many of them can be removed one by one; `members` are axes "parameter_name[dim]" that
  shrink with each of them.
- `EXPECTED_UNLISTED`: axes whose groups are left out of that list. There should be no channel or row group
  that is neither listed nor has one of these axes.
"""

from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

__all__ = ["gpt", "hardnet", "mobilenet_v2", "resnet_cifar", "vit"]
