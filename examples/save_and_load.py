"""Save a pruned network as plain files (weights, plan and structure, no pickled code) and load it again.

Run from the repository root: python examples/save_and_load.py
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # `models` belongs to the repository, not to the package

import graphprune
from models.gpt import gpt

torch.manual_seed(0)
ids = torch.randint(256, (2, 16))
slim = graphprune.prune_model(gpt().eval(), 0.5, example_inputs=ids)

with TemporaryDirectory() as folder:
    graphprune.save(slim, folder)
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        print(f"{file.name:<24}{file.stat().st_size:>10,} bytes")
    loaded = graphprune.load(folder, model=gpt()).eval()

with torch.no_grad():
    assert torch.equal(loaded(ids), slim(ids))
print("The loaded network computes exactly what the saved one computes.")
