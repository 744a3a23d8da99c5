"""The vocabulary of a tokenizer as llama.cpp keeps it: tokens, merges, how text is split first."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from graphprune.errors import InputError
from graphprune.utils.checks import found_value, shown

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


PRETOKENIZERS = {
    (("bytes with regex",), False): "gpt-2",
    (("single digits", "bytes with regex"), False): "smollm",
    ((_LLAMA3, "bytes"), True): "llama-bpe",
    ((_LLAMA3, "bytes"), False): "dbrx",
    ((_LLAMA3.replace("{1,3}", ""), "bytes"), False): "qwen2",
    ((_TEKKEN, "bytes"), True): "tekken",
}
"""By how text is split, and whether whole words are looked up before merging: llama.cpp's name for it."""


_SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about tokens.

    Attributes:
        model: ``gpt2`` (bytes) or ``llama`` (SentencePiece).
        pretokenizer: llama.cpp's name for how text is split first; "" for SentencePiece.
        tokens: texts, by id.
        kinds: of each token: "normal", "control", "user_defined", "unused", "byte" or "unknown".
        scores: of each token, for SentencePiece.
        merges: pairs of tokens as text with a space between them, for bytes.
        special: ids by their names in GGUF (``bos``, ``eos``, ``unk``, ``pad``).
        adds_bos, adds_eos: are they added to every text?
        space_first: a space is put before every text.
        chat_template: a Jinja template, if there is one.
    notes: in what llama.cpp will read text otherwise than the tokenizer.
    """

    model: str
    pretokenizer: str
    tokens: list[str]
    kinds: list[str]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special: Mapping[str, int] = field(default_factory=dict)
    adds_bos: bool = False
    adds_eos: bool = False
    space_first: bool = False
    chat_template: str | None = None
    notes: tuple[str, ...] = ()


def read_vocabulary(tokenizer: Any, size: int, pretokenizer: str | None = None) -> Vocabulary:
    """The vocabulary of a fast tokenizer of Transformers, or of a folder that holds one.

    Args:
        tokenizer: what ``AutoTokenizer.from_pretrained`` returns, or the folder it would read.
        size: rows of the embedding; ids that the tokenizer does not use become unused tokens.
        pretokenizer: llama.cpp's name for how text is split first; None: found from the tokenizer.

    Raises:
        InputError: the tokenizer is of a kind that llama.cpp, or this function, does not know.
    """
    tokenizer = _loaded(tokenizer)
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    model = data["model"]
    if model["type"] != "BPE":
        raise _refusal(f"its model is {model['type']}, and only BPE is supported")
    if not model["merges"]:
        raise _refusal("it has no merges, and llama.cpp wants some")
    tokens, kinds = _tokens(tokenizer, data, size)
    common: dict[str, Any] = {"special": _special(tokenizer), "chat_template": _template(tokenizer)}
    common.update(_added(tokenizer))
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        scores = _scores(tokens, kinds, merges)
        return Vocabulary("llama", "", tokens, kinds, scores=scores, **_spaces(data), **common)
    name = pretokenizer or _pretokenizer(data)
    return Vocabulary("gpt2", name, tokens, kinds, merges=[" ".join(merge) for merge in merges], **common)


def _refusal(what: str) -> InputError:
    return InputError(
        f"tokenizer: cannot be written to a GGUF file: {what}",
        where="tokenizer",
        found=what,
        needed="a tokenizer that llama.cpp and this function know",
        do="convert it with llama.cpp's convert_hf_to_gguf.py --vocab-only, or serve token ids with another runtime",
    )


def _loaded(tokenizer: Any) -> Any:
    if isinstance(tokenizer, str | os.PathLike):
        from transformers import AutoTokenizer

        if not Path(tokenizer).is_dir():
            raise InputError(
                f"tokenizer: {shown(str(tokenizer))} is no folder",
                where=str(tokenizer),
                found="a file" if Path(tokenizer).exists() else "nothing at this path",
                needed="a folder that holds a tokenizer.json",
                do="pass one that holds a tokenizer.json, or the tokenizer itself",
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"tokenizer: the folder holds none that Transformers can read: {error}",
                where=str(tokenizer),
                found=f"{type(error).__name__}: {error}",
                needed="the files of a fast tokenizer",
                do="pass a folder that tokenizer.save_pretrained(...) wrote",
            ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InputError(
            "tokenizer: must be a fast tokenizer of Transformers, or a folder that holds one (tokenizer.json), "
            f"but is {shown(tokenizer)}",
            found=found_value(tokenizer),
            needed="a fast tokenizer of Transformers, or a folder that holds one",
            do="pass AutoTokenizer.from_pretrained(...), or its folder",
        )
    return tokenizer


def _tokens(tokenizer: Any, data: Mapping[str, Any], size: int) -> tuple[list[str], list[str]]:
    """Texts and kinds of all ids."""
    added = {entry["id"]: entry for entry in data["added_tokens"]}
    by_id = {index: text for text, index in tokenizer.get_vocab().items()}
    if by_id and max(by_id) >= size:
        raise InputError(
            f"tokenizer: has the id {max(by_id)}, but the embedding of the model has {size} rows",
            where="tokenizer",
            found=f"the id {max(by_id)}",
            needed=f"ids below {size}",
            do="pass the tokenizer of this model",
        )
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    unknown = data["model"].get("unk_token")
    fallback = bool(data["model"].get("byte_fallback"))
    kinds = []
    for index, text in enumerate(tokens):
        if index not in by_id:
            kinds.append("unused")
        elif text == unknown:
            kinds.append("unknown")
        elif index in added:
            kinds.append("control" if added[index]["special"] else "user_defined")
        else:
            kinds.append("byte" if fallback and re.fullmatch(r"<0x[0-9A-F]{2}>", text) else "normal")
    return tokens, kinds


def _special(tokenizer: Any) -> dict[str, int]:
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    return {name: index for name, index in found.items() if index is not None}


def _added(tokenizer: Any) -> dict[str, bool]:
    """Which special tokens the tokenizer adds to a text."""
    plain, full = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (False, True))
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    before, after = full[:start], full[start + len(plain) :]
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], [tokenizer.eos_token_id]):
        raise _refusal(f"it adds the ids {before} before a text and {after} after it, not its bos and eos tokens")
    return {"adds_bos": bool(before), "adds_eos": bool(after)}


def _template(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str) else None


def _parts(component: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    """The parts of a pre-tokenizer or normalizer that may be a sequence of them."""
    if component is None:
        return
    if component["type"] == "Sequence":
        for part in component[members]:
            yield from _parts(part, members)
    else:
        yield component


def _pretokenizer(data: Mapping[str, Any]) -> str:
    normalizers = {part["type"] for part in _parts(data["normalizer"], "normalizers")}
    if normalizers - {"NFC"}:
        raise _refusal(f"its text is normalized by {', '.join(sorted(normalizers))}")
    rules = tuple(_split_rule(part) for part in _parts(data["pre_tokenizer"], "pretokenizers"))
    name = PRETOKENIZERS.get((rules, bool(data["model"].get("ignore_merges"))))
    if name is None:
        raise _refusal(
            f"its pre-tokenizer {shown(rules)} is none of {', '.join(sorted(PRETOKENIZERS.values()))} (where llama.cpp "
            "has another one that is equal, pass its name as pretokenizer=)"
        )
    return name


def _split_rule(part: Mapping[str, Any]) -> str:
    """One step of splitting text, as a key of the table."""
    kind = part["type"]
    if kind == "ByteLevel" and not part["add_prefix_space"]:
        return "bytes with regex" if part.get("use_regex", True) else "bytes"
    if kind == "Digits" and part["individual_digits"]:
        return "single digits"
    if kind == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        return str(part["pattern"].get("Regex", part["pattern"]))
    return json.dumps(part, sort_keys=True)


def _spaces(data: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a space is put before a text, as SentencePiece does."""
    steps = [*_parts(data["normalizer"], "normalizers"), *_parts(data["pre_tokenizer"], "pretokenizers")]
    known: dict[str, Callable[[Mapping[str, Any]], bool]] = {
        "Prepend": lambda step: step["prepend"] == _SPACE,
        "Replace": lambda step: step["pattern"] == {"String": " "} and step["content"] == _SPACE,
        "Metaspace": lambda step: step["replacement"] == _SPACE and not step.get("split", True),
    }
    for step in steps:
        if step["type"] not in known or not known[step["type"]](step):
            raise _refusal(f"its step {shown(step)} is none of SentencePiece's")
    kinds = {step["type"] for step in steps}
    if not {"Replace", "Metaspace"} & kinds:
        raise _refusal("it has byte tokens, but does not write spaces as SentencePiece does")
    scheme = next((step.get("prepend_scheme", "always") for step in steps if step["type"] == "Metaspace"), "never")
    notes = () if scheme == "never" else (_SPACE_NOTE,)
    return {"space_first": "Prepend" in kinds or scheme != "never", "notes": notes}


_SPACE_NOTE = (
    "llama.cpp puts a space before text that begins with one, and before text after a special token; this tokenizer "
    "does not"
)


def _scores(tokens: Sequence[str], kinds: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """Scores for which SentencePiece's way (join the pair whose text has the best score) makes the same merges.

    Raises:
        InputError: there are none, as the order of merges does not follow from the texts that they make.
    """
    ranks: dict[str, list[int]] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, []).append(rank)
    ordered = sorted(ranks.values())
    if any(first[-1] > second[0] for first, second in pairwise(ordered)):
        raise _refusal("its merges are not in the order of scores of SentencePiece")
    known = {text for text, kind in zip(tokens, kinds, strict=True) if kind == "normal"}
    for text in known:
        splits = sum(text[:i] in known and text[i:] in known for i in range(1, len(text)))
        if splits != len(ranks.get(text, [])):
            raise _refusal(f"SentencePiece would make the token {text!r} from {splits} pairs, and its merges do not")
    return [-float(ranks[text][0]) if text in ranks else 0.0 for text in tokens]
