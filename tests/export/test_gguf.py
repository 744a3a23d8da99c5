"""GGUF files: stock llama.cpp generates what the slim model does, and reads text as its tokenizer does."""

import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config

import graphprune
from benchmarks.llama_cpp import completion, serving, tokens_of
from graphprune import Override, export_gguf
from graphprune.errors import InputError
from graphprune.export.gguf import vocabulary, writing
from tests.branches import plan_without

VOCABULARY = 512
END = 1
TEXTS = [
    "Make neural networks smaller, it's 12345 tokens!",
    "  two  spaces\n\n\nlines\r\n\ttab ",
    "héllo wörld ñ Ünïcode 漢字 かな 한국어 🙂🙂",
    "def f(x):\n    return x**2 + 3.14  # comment\n\n",
    "WE'LL don't I'M you'Re MixedCase HTTPServer iPhone",
    "a<|end|>b <|end|> c",
    "...!!!??? \u00a0nbsp",
]
LLAMA3 = vocabulary._LLAMA3
QWEN2 = LLAMA3.replace("{1,3}", "")


def decoder(kind: str, **changes: Any) -> nn.Module:
    """A tiny language model of Transformers in which nothing is alike."""
    sizes: dict[str, Any] = dict(  # noqa: C408
        num_hidden_layers=4,
        hidden_size=64,
        head_dim=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=512,
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **changes})
    model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return model


def planned(model: nn.Module, **options: Any) -> nn.Module:
    return graphprune.trace(model, {"input_ids": torch.arange(12)[None]}).plan(**options).apply(model)


def merged(model: nn.Module) -> nn.Module:
    """Two key/value heads instead of four, for eight query heads."""
    return graphprune.trace(model, {"input_ids": torch.arange(12)[None]}).plan_merged_heads(2).apply(model)


def uneven(model: nn.Module) -> nn.Module:
    """Heads 8/6/4/2, key/value heads 4/3/2/1, MLP units 205/359/461/256."""
    overrides = {}
    for i, units in enumerate((205, 359, 461, 256)):
        overrides[f"model.layers.{i}.self_attn.*"] = Override(ratio=i / 4)
        overrides[f"model.layers.{i}.mlp.*"] = Override(ratio=1 - units / 512)
    return planned(model, overrides=overrides)


def byte_tokenizer(split: str | None = LLAMA3, *, ignore_merges: bool = False, digits: bool = False) -> Any:
    """A tiny tokenizer of bytes as GPT-2, Llama 3 and Qwen2 have it."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
    steps = [pre_tokenizers.Split(Regex(split), "isolated"), *steps] if split else steps
    steps = [pre_tokenizers.Digits(individual_digits=True), *steps] if digits else steps
    made.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    made.normalizer = normalizers.NFC() if split == QWEN2 else None
    made.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS * 2, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    if split != QWEN2:
        made.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|begin|>", eos_token="<|end|>")


def sentencepiece_tokenizer(metaspace: bool = False) -> Any:
    """A tiny tokenizer as Llama 2 and Mistral have it: all pairs that make a piece are merges, by the piece's score."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<|end|>", "<|begin|>"]
    pieces = [f"<0x{i:02X}>" for i in range(256)]
    plain = [text for text in TEXTS if "<|" not in text]
    made.train_from_iterator(plain * 2, trainers.BpeTrainer(vocab_size=500, special_tokens=[*special, *pieces]))
    data = json.loads(made.to_str())
    vocab = data["model"]["vocab"]
    ordered = sorted(vocab.keys() - {*special, *pieces}, key=vocab.__getitem__)
    splits = [[text[:i], text[i:]] for text in ordered for i in range(1, len(text))]
    data["model"]["merges"] = [pair for pair in splits if pair[0] in vocab and pair[1] in vocab]
    data["added_tokens"] = data["added_tokens"][: len(special)]
    made = Tokenizer.from_str(json.dumps(data))
    made.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 2)])
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def banned(tokenizer: Any) -> list[int]:
    """The end of a text, and parts of characters, of which the server reports no probabilities."""
    return [END, *(i for i in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([i]))]


PROMPT = torch.randint(2, VOCABULARY, (8,), generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """f[tokens, vocabulary]."""
    with torch.no_grad():
        found: Tensor = model(input_ids=ids[None]).logits[0].float()
    return found


def greedy(model: nn.Module, count: int, banned: list[int]) -> list[int]:
    ids = PROMPT
    for _ in range(count):
        ids = torch.cat([ids, without(logits(model, ids)[-1:], banned).argmax(-1)])
    return ids[len(PROMPT) :].tolist()


def without(found: Tensor, banned: list[int]) -> Tensor:
    return found.index_fill(-1, torch.tensor(banned), -torch.inf)


def first_difference(model: nn.Module, first: dict[int, float], banned: list[int]) -> float:
    """The largest difference of the logarithms of probabilities at the first token."""
    expected = logits(model, PROMPT)[-1].log_softmax(-1)
    return max(abs(value - float(expected[token])) for token, value in first.items() if token not in banned)


class Nothing(nn.Module):
    """In the place of attention or an MLP of which nothing is left."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor | None = None, hidden_states: Tensor | None = None, **_: Any) -> Any:
        x = torch.zeros_like(x if hidden_states is None else hidden_states)
        return (x, None) if self.attention else x


def with_gaps() -> nn.Module:
    model: Any = decoder("Llama")
    model.model.layers[0].mlp = Nothing(False)
    model.model.layers[2].self_attn = Nothing(True)
    return model


def without_branches() -> nn.Module:
    model = decoder("Llama")
    graph = graphprune.trace(model, {"input_ids": torch.arange(12)[None]})
    return plan_without(graph, "model.layers.0.mlp", "model.layers.2.self_attn", params=0.7).apply(model)


def rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 5e5, "factor": 8.0, **parameters}}


LLAMA3_ROPE = rope(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN_ROPE = rope(rope_type="yarn", original_max_position_embeddings=32)


MODELS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "llama": ("deci", lambda: uneven(decoder("Llama"))),
    "llama, biases": ("deci", lambda: decoder("Llama", attention_bias=True, mlp_bias=True)),
    "llama, budget": ("deci", lambda: planned(decoder("Llama"), params=0.5)),
    "llama, narrower heads": ("deci", lambda: planned(decoder("Llama"), head_width=0.5)),
    "llama, merged heads": ("deci", lambda: merged(decoder("Llama"))),
    "llama, fewer layers": ("deci", lambda: planned(decoder("Llama"), depth=0.5)),
    "llama, parts of layers": ("deci", with_gaps),
    "llama, without branches": ("deci", without_branches),
    "llama 3.1 positions": ("deci", lambda: decoder("Llama", **LLAMA3_ROPE)),
    "yarn positions": ("deci", lambda: decoder("Llama", **YARN_ROPE)),
    "mistral": ("deci", lambda: decoder("Mistral", num_hidden_layers=2)),
    "qwen2": ("deci", lambda: uneven(decoder("Qwen2"))),
    "qwen2, tied": ("deci", lambda: decoder("Qwen2", tie_word_embeddings=True)),
    "qwen3, tied": ("openelm", lambda: uneven(decoder("Qwen3", tie_word_embeddings=True))),
    "qwen3, uniform": ("qwen3", lambda: planned(decoder("Qwen3"), macs=0.6, layers="equal")),
}


@cache
def slim_model(name: str) -> nn.Module:
    """One of the models, which tests leave as it is."""
    return MODELS[name][1]()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*original_inv_freq.*no example runs")
def test_stock_llama_cpp_generates_the_same_tokens(
    name: str, tokenizer: Any, banned: list[int], tmp_path: Path
) -> None:
    architecture, slim = MODELS[name][0], slim_model(name)
    file = export_gguf(slim, tmp_path / "slim.gguf", tokenizer, dtype="f32")
    assert file.architecture == architecture
    assert file.difference < 1e-5
    with serving(file.path) as address:
        found = completion(address, PROMPT.tolist(), 24, banned, VOCABULARY)
    difference = first_difference(slim, found.first, banned)
    print(f"{name}: largest difference of log probabilities {difference:.1e}\n{file}")
    assert found.tokens == greedy(slim, 24, banned)
    assert difference < 1e-4


def test_sizes_are_those_of_the_tensors(tokenizer: Any, tmp_path: Path) -> None:
    slim: Any = deepcopy(slim_model("llama"))
    slim.config.num_attention_heads = slim.config.intermediate_size = slim.config.num_hidden_layers = 99
    file = export_gguf(slim, tmp_path / "new" / "slim.gguf", tokenizer)
    assert (file.heads, file.kv_heads, file.mlp) == ((8, 6, 4, 2), (4, 3, 2, 1), (205, 359, 461, 256))
    assert "key/value heads of each layer: 4 3 2 1" in str(file)
    assert file.size == file.path.stat().st_size


def test_a_compiled_model_is_written_as_it_was_before(tokenizer: Any, tmp_path: Path) -> None:
    slim: Any = slim_model("llama")
    files = [export_gguf(one, tmp_path / f"{i}.gguf", tokenizer) for i, one in enumerate((slim, torch.compile(slim)))]
    assert files[0].path.read_bytes() == files[1].path.read_bytes()


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.1), ("bf16", 0.5), ("q8_0", 1.0)])
def test_smaller_types(dtype: str, tolerance: float, tokenizer: Any, banned: list[int], tmp_path: Path) -> None:
    """Each token that llama.cpp takes is the best of the slim model's, but for rounding."""
    slim = slim_model("qwen2")
    file = export_gguf(slim, tmp_path / "slim.gguf", tokenizer, dtype=dtype)
    with serving(file.path) as address:
        found = completion(address, PROMPT.tolist(), 24, banned, VOCABULARY)
    assert first_difference(slim, found.first, banned) < tolerance
    ids = torch.tensor(found.tokens)
    steps = without(logits(slim, torch.cat([PROMPT, ids]))[len(PROMPT) - 1 : -1], banned)
    losses = steps.amax(-1) - steps.gather(-1, ids[:, None])[:, 0]
    print(f"{dtype}: at most {losses.max():.2g} below the best logit; {file}")
    assert losses.max() < tolerance
    odd = {f"blk.{i}.{name}.weight" for i, name in [(0, "ffn_down"), (1, "ffn_down"), (2, "ffn_down")]}
    odd |= {"blk.1.attn_output.weight", "blk.3.attn_output.weight"}
    assert set(file.unquantized) == (odd if dtype == "q8_0" else set())
    assert ("plan with multiple=32" in str(file)) == (dtype == "q8_0")


@pytest.mark.parametrize(("dtype", "rounded"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_difference_is_that_of_rounded_tensors(
    dtype: str, rounded: torch.dtype, tokenizer: Any, tmp_path: Path
) -> None:
    """It is as for the model with matrices of this type."""
    slim = slim_model("llama")
    other = deepcopy(slim)
    for parameter in other.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.to(rounded).float()
    ids = torch.randint(VOCABULARY, (16,), generator=torch.Generator().manual_seed(0))
    expected, found = logits(slim, ids), logits(other, ids)
    file = export_gguf(slim, tmp_path / "slim.gguf", tokenizer, dtype=dtype)
    assert file.difference == pytest.approx(float((found - expected).abs().max() / expected.abs().max()), rel=0.05)
    coarse = export_gguf(slim, tmp_path / "coarse.gguf", tokenizer, dtype="q8_0")
    assert 1e-5 < file.difference < coarse.difference < 0.1


def test_models_in_half_precision_are_compared_exactly(tokenizer: Any, tmp_path: Path) -> None:
    slim = deepcopy(slim_model("llama")).bfloat16()
    before = {name: (id(p), p.dtype) for name, p in slim.named_parameters()}
    assert export_gguf(slim, tmp_path / "slim.gguf", tokenizer, dtype="bf16").difference < 1e-5
    assert {name: (id(p), p.dtype) for name, p in slim.named_parameters()} == before


def test_only_files_of_its_own_are_replaced(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "slim.gguf"
    path.touch()
    for _ in range(2):
        export_gguf(slim_model("llama"), path, tokenizer)
    path.write_text("notes")
    with pytest.raises(InputError, match=r"path: .* exists and is no GGUF file that graphprune wrote"):
        export_gguf(slim_model("llama"), path, tokenizer)
    assert path.read_text() == "notes"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("gpt-2", lambda: byte_tokenizer(None)),
        ("smollm", lambda: byte_tokenizer(None, digits=True)),
        ("llama-bpe", lambda: byte_tokenizer(LLAMA3, ignore_merges=True)),
        ("dbrx", lambda: byte_tokenizer(LLAMA3)),
        ("qwen2", lambda: byte_tokenizer(QWEN2)),
        ("tekken", lambda: byte_tokenizer(vocabulary._TEKKEN, ignore_merges=True)),
        ("", sentencepiece_tokenizer),
    ],
)
def test_llama_cpp_reads_text_as_the_tokenizer_does(name: str, make: Callable[[], Any], tmp_path: Path) -> None:
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert vocabulary.read_vocabulary(tokenizer, VOCABULARY).pretokenizer == name
    model = decoder("Llama", num_hidden_layers=1, intermediate_size=8)
    file = export_gguf(model, tmp_path / "slim.gguf", tmp_path / "tokenizer")
    with serving(file.path) as address:
        assert [tokens_of(address, text) for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_notes_say_what_is_lost(tmp_path: Path) -> None:
    model = decoder("Mistral", sliding_window=64, num_hidden_layers=1)
    file = export_gguf(model, tmp_path / "slim.gguf", sentencepiece_tokenizer(metaspace=True))
    assert file.context == 64
    assert "the context ends with the sliding window of 64 tokens" in str(file)
    assert "llama.cpp puts a space before text" in str(file)


def with_adapters() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that Transformers renames
        made: nn.Module = peft.get_peft_model(decoder("Llama"), peft.LoraConfig(target_modules=["q_proj"]))
    return made


def with_two_head_widths() -> nn.Module:
    model: Any = decoder("Llama")
    model.model.layers[1].self_attn.head_dim = 4
    return model


def with_narrow_values() -> nn.Module:
    model: Any = decoder("Llama")
    attention = model.model.layers[1].self_attn
    attention.v_proj, attention.o_proj = nn.Linear(64, 16, bias=False), nn.Linear(32, 64, bias=False)
    return model


def with_other_layers() -> nn.Module:
    model: Any = decoder("Qwen3")
    model.model.layers[1].mlp = type(model.model.layers[1].mlp)(Qwen3Config(hidden_size=64, intermediate_size=8))
    return model


EXPERTS = {"num_experts": 4, "moe_intermediate_size": 32}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another library": (lambda: nn.Linear(2, 2), r"Linear has no config\.rms_norm_eps"),
    "no gates": (lambda: decoder("GPTNeoX"), r"GPTNeoXForCausalLM has no config\.rms_norm_eps"),
    "no head": (lambda: decoder("Llama").get_submodule("model"), "has no place there|has no output"),
    "activation": (lambda: decoder("Gemma"), "its activation is 'gelu_pytorch_tanh'"),
    "other arithmetic": (lambda: decoder("Gemma", hidden_act="silu"), "would compute other logits"),
    "experts": (lambda: decoder("Qwen3Moe", **EXPERTS), r"mlp\..* has no place there \(mixtures of experts"),
    "fused": (lambda: decoder("Phi3", pad_token_id=0), r"qkv_proj.weight \(.*\) has no place there"),
    "adapters": (with_adapters, r"merge_and_unload\(\)"),
    "meta": (lambda: decoder("Llama").to("meta"), "on the meta device"),
    "head widths": (with_two_head_widths, r"heads have 4, 8 channels.*plan with heads= instead"),
    "value widths": (with_narrow_values, r"layer 1 has 64 query, 32 key and 16 value channels"),
    "positions": (
        lambda: decoder("Llama", **rope(rope_type="dynamic")),
        "rotary positions are 'dynamic', which change with the length",
    ),
    "normalized queries": (with_other_layers, "plan with layers='equal'"),
    "rounded positions": (lambda: decoder("Qwen3").half(), r"load with dtype= instead"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_cannot_run_is_refused(name: str, tokenizer: Any, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=rf"(?s)slim: cannot be a GGUF file: .*({message}).*take another way"):
        export_gguf(make(), tmp_path / "slim.gguf", tokenizer)
    assert list(tmp_path.iterdir()) == []


def unknown_split() -> Any:
    return byte_tokenizer(r"\w+|\s+")


def unigram() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram([("a", 0.0)])))


def no_merges() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))


def word_merges() -> Any:
    """SentencePiece by its looks, with merges that SentencePiece would not make."""
    data = json.loads(sentencepiece_tokenizer().backend_tokenizer.to_str())
    del data["model"]["merges"][5]
    made = Tokenizer.from_str(json.dumps(data))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|begin|>", unk_token="<unk>")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unknown_split, r"its pre-tokenizer .* is none of dbrx, gpt-2.*pass its name as pretokenizer="),
        (unigram, "its model is Unigram, and only BPE"),
        (no_merges, "it has no merges"),
        (word_merges, "SentencePiece would make the token"),
        (lambda: "nowhere", "'nowhere' is no folder"),
        (lambda: 3, "must be a fast tokenizer of Transformers"),
    ],
)
def test_tokenizers_that_cannot_be_written(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"tokenizer: .*{message}"):
        export_gguf(decoder("Llama", num_hidden_layers=1), tmp_path / "slim.gguf", make())
    assert list(tmp_path.iterdir()) == []


def test_a_pretokenizer_by_name() -> None:
    found = vocabulary.read_vocabulary(unknown_split(), VOCABULARY, pretokenizer="gpt-2")
    assert (found.model, found.pretokenizer) == ("gpt2", "gpt-2")
    assert found.kinds.count("unused") == VOCABULARY - found.kinds.count("normal") - found.kinds.count("control")


def test_a_tokenizer_of_another_model(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has the id 399, but the embedding of the model has 64 rows"):
        export_gguf(decoder("Llama", vocab_size=64), tmp_path / "slim.gguf", tokenizer)


def test_arguments_are_checked(tokenizer: Any, tmp_path: Path) -> None:
    model = decoder("Llama", num_hidden_layers=1)
    with pytest.raises(InputError, match=r"path: .* is a folder[\s\S]*pass the file to write"):
        export_gguf(model, tmp_path, tokenizer)
    with pytest.raises(InputError, match="dtype: 'q4' is not known; use one of 'f32', 'f16'"):
        export_gguf(model, tmp_path / "slim.gguf", tokenizer, dtype="q4")
    model.get_parameter("lm_head.weight").data[0, 0] = 1e6
    with pytest.raises(
        InputError, match=r"dtype: output.weight has values above 65504[\s\S]*use dtype='bf16' or dtype='f32'"
    ):
        export_gguf(model, tmp_path / "slim.gguf", tokenizer)


def test_a_failing_write_leaves_the_old_file(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("Llama", num_hidden_layers=1)
    export_gguf(model, tmp_path / "slim.gguf", tokenizer)
    before = (tmp_path / "slim.gguf").read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(writing, "_stored", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export_gguf(model, tmp_path / "slim.gguf", tokenizer, dtype="f32")
    assert [path.name for path in tmp_path.iterdir()] == ["slim.gguf"]
    assert (tmp_path / "slim.gguf").read_bytes() == before
