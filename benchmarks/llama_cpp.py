"""Stock llama.cpp, from the wheel ``xllamacpp``: a server of a GGUF file on a free port, and what it answers."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xllamacpp


@dataclass(frozen=True)
class Completion:
    """Greedy tokens, and the logarithms of the probabilities of all tokens at the first of them."""

    tokens: list[int]
    first: dict[int, float]


@contextmanager
def serving(path: Path, context: int = 256) -> Iterator[str]:
    """The address of a server that runs until the end of the block, with an exact cache and one thread."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.port = 0
    parameters.n_ctx = context
    parameters.n_parallel = 1
    parameters.verbosity = 0
    parameters.warmup = False
    parameters.fit_params = False
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(parameters)
    try:
        yield server.listening_address
    finally:
        del server


def completion(address: str, prompt: list[int], count: int, banned: list[int], vocabulary: int) -> Completion:
    """``count`` greedy tokens after a prompt, none of them a banned one (the end of a text, say)."""
    data = {
        "prompt": prompt,
        "n_predict": count,
        "temperature": 0,
        "top_k": 1,
        "n_probs": vocabulary,
        "return_tokens": True,
        "cache_prompt": False,
        "logit_bias": [[token, False] for token in banned],
    }
    answer = _post(f"{address}/completion", data)
    first = answer["completion_probabilities"][0]["top_logprobs"]
    return Completion(answer["tokens"], {entry["id"]: entry["logprob"] for entry in first})


def tokens_of(address: str, text: str) -> list[int]:
    """What llama.cpp makes of a text, special tokens included."""
    data = {"content": text, "add_special": True, "parse_special": True}
    return list(_post(f"{address}/tokenize", data)["tokens"])


def _post(address: str, data: Any) -> Any:
    request = urllib.request.Request(address, json.dumps(data).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def byte_tokenizer() -> Any:
    """A tokenizer of single bytes and one merge, with a token for the start and one for the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<|begin|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, [("t", "h")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|begin|>", eos_token="<|end|>")
