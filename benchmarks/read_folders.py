"""Read folders of slim models with Transformers alone, in a process that cannot import graphprune.

``python read_folders.py CASES`` reads a file that ``torch.save`` wrote, a list of cases (folder, the ``Auto`` class
that loads it, inputs, expected outputs, expected tokens), and prints a JSON list of what was found.
"""

import json
import sys
import tempfile

import torch
import transformers

TOKENS = {"max_new_tokens": 6, "do_sample": False}


def main() -> None:
    """Read all cases."""
    sys.modules["graphprune"] = None  # importing it raises from here on
    transformers.logging.set_verbosity_error()
    print(json.dumps([read(case) for case in torch.load(sys.argv[1], weights_only=False)]))


def read(case):
    """What the model in a folder does, beside what it should do."""
    auto = getattr(transformers, case["auto"])
    model = auto.from_pretrained(case["folder"], trust_remote_code=True)
    found = {"difference": difference(model, case)}
    if case["tokens"] is not None:
        found["dynamic"] = generated(model, case)
        found["static"] = generated(model, case, cache_implementation="static")
        if not model.config.is_encoder_decoder:
            found["chunks"] = generated(model, case, cache_implementation="static", prefill_chunk_size=3)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = auto.from_pretrained(folder, trust_remote_code=True)
        found["again"] = difference(again, case)
    half = auto.from_pretrained(case["folder"], trust_remote_code=True, dtype=torch.bfloat16, device_map="cpu")
    halved = auto.from_pretrained(case["folder"], trust_remote_code=True).to(torch.bfloat16)
    found["half"] = all(torch.equal(a, b) for a, b in zip(half.parameters(), halved.parameters(), strict=True))
    return found


def difference(model, case):
    """The largest difference to what is expected."""
    with torch.no_grad():
        outputs = model(**case["inputs"], **case["more"])
    return max(float((outputs[name] - tensor).abs().max()) for name, tensor in case["outputs"].items())


def generated(model, case, **options):
    """Are the tokens those that are expected?"""
    return bool(torch.equal(model.generate(**case["inputs"], **TOKENS, **options), case["tokens"]))


if __name__ == "__main__":
    main()
