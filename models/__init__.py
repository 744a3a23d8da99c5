"""Example networks, each whole in one file, with the groups that pruning is expected to find in it.

A file `models/x.py` has functions that build the network, and `EXPECTED_GROUPS` for the default one: entries
`(role, units, members)`, written by hand from the architecture.

- `role` is that of `graphprune.Group`: "width", "mlp", "heads", "kv_groups" or "groups"; all groups of these roles are
  listed, and none of the widths of heads;
- `units` is how many of them can be removed one by one;
- `members` are axes "parameter_name[dim]" that shrink with each of them; there may be more.
"""

from models import gpt, hardnet, mobilenet_v2, resnet_cifar, vit

__all__ = ["gpt", "hardnet", "mobilenet_v2", "resnet_cifar", "vit"]
