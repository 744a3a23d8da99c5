"""Smaller vocabularies: the slim model gives the logits that the original has for the words that stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import graphprune
from graphprune import TokenMap, prune_vocabulary
from graphprune.errors import InputError, PlanError, VerificationError

WORDS = 50
KEPT = [0, 1, 2, 5, 7, 9, 20, 30, 49]
SEQUENCES = torch.randint(0, WORDS, (2, 5), generator=torch.Generator().manual_seed(0))
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


class Tagger(nn.Module):
    """Words, a recurrent layer, logits of words with a bias of their own; ``kinds`` index a table of two rows."""

    def __init__(self, padding: int | None = None, tied: bool = False, classes: int = WORDS) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(WORDS, 16, padding_idx=padding), nn.Embedding(2, 16)
        self.states = nn.GRU(16, 16, batch_first=True)
        self.head, self.shift = nn.Linear(16, classes), nn.Parameter(torch.randn(classes))
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.states(self.words(x) + self.kinds(torch.zeros_like(x)))[0]) + self.shift


class Masks(Tagger):
    """Words that are compared with an attribute."""

    mask_token_id: int

    def __init__(self, number: int) -> None:
        super().__init__()
        self.mask_token_id = number

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x) * (x != self.mask_token_id)[..., None])


class Written(Tagger):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x) * (x != 7)[..., None])


class Ordered(Tagger):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x) * (x > 4)[..., None])


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(WORDS, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x))


class Hot(Tagger):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.one_hot(x, WORDS).float() @ self.words.weight)


class Shifted(Tagger):
    """A parameter that ids index, beside the embedding."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x)) + self.shift[x][..., None]


class Other(Tagger):
    """A table with another number of rows that ids index, beside the embedding."""

    def __init__(self) -> None:
        super().__init__(classes=3)
        self.kinds = nn.Embedding(WORDS - 1, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x) + self.kinds(x))


class Counted(Tagger):
    """Ids say which numbers of a table that is no parameter are written."""

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.zeros(WORDS, dtype=torch.long, device=x.device).index_fill(0, x.flatten(), 1)
        return self.head(self.words(x)).masked_fill(seen == 1, 0.0)


class Viewed(Tagger):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x)).view(-1, 50)


class Looking(Tagger):
    """Looks at values, so that its slim models are run in the place of being compared on shapes."""

    def __init__(self, padding: int | None = None, tied: bool = False, classes: int = WORDS) -> None:
        super().__init__(padding, tied, classes)
        self.end_token_id = 49

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x)
        if bool(y.abs().max() > 1e4):
            y = y.clamp(-1e4, 1e4)
        return self.head(y * (x != self.end_token_id)[..., None]) + self.shift


def logits(output: object) -> Tensor:
    found = getattr(output, "logits", output)
    assert isinstance(found, Tensor)
    return found


def compare(model: nn.Module, kept: Sequence[int], classes: bool = False) -> tuple[nn.Module, TokenMap]:
    """Prune the vocabulary and compare with the original on words that stay."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slim, tokens = prune_vocabulary(model, kept, SEQUENCES)
    ids = torch.tensor(kept)[torch.randint(0, len(kept), (4, 12))]
    with torch.no_grad():
        wanted, found = logits(model(ids)), logits(slim(tokens.new_ids(ids)))
    torch.testing.assert_close(found, wanted if classes else wanted[..., kept], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert tokens == TokenMap(tuple(kept), WORDS) == TokenMap.of(slim)
    return slim, tokens


@pytest.mark.parametrize("padding", [None, 0, 49])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_and_logits_go(padding: int | None, tied: bool) -> None:
    slim, _ = compare(Tagger(padding, tied).eval(), KEPT)
    assert isinstance(slim, Tagger)
    assert slim.words.weight.shape == slim.head.weight.shape == (9, 16) and slim.words.num_embeddings == 9
    assert slim.shift.shape == (9,) and slim.kinds.weight.shape == (2, 16)
    assert slim.words.padding_idx == (None if padding is None else KEPT.index(padding))


@pytest.mark.parametrize("padding", [None, 49])
@pytest.mark.parametrize("tied", [False, True])
def test_models_that_look_at_values(padding: int | None, tied: bool) -> None:
    model = Looking(padding, tied).eval()
    assert not graphprune.trace(model, SEQUENCES).trace.on_meta
    model.end_token_id = 49
    slim, _ = compare(model, KEPT)
    assert isinstance(slim, Looking) and slim.end_token_id == 8 and slim.words.weight.shape == (9, 16)
    compare(Looking(classes=3).eval(), KEPT, classes=True)


def test_outputs_that_are_no_words_stay() -> None:
    slim, _ = compare(Tagger(classes=3).eval(), KEPT, classes=True)
    assert isinstance(slim, Tagger) and slim.head.weight.shape == (3, 16)
    bag, _ = prune_vocabulary(Bag().eval(), KEPT, SEQUENCES)
    assert bag.get_parameter("words.weight").shape == (9, 16)


def test_numbers_of_tokens_follow_or_are_refused() -> None:
    slim, _ = compare(Masks(20).eval(), KEPT)
    assert slim.mask_token_id == KEPT.index(20)
    with pytest.raises(InputError, match="8 is a special token, mask_token_id"):
        prune_vocabulary(Masks(8).eval(), KEPT, SEQUENCES)
    with pytest.raises(PlanError, match=r"(?s)ne meets ids with 7, 4 then.*test_vocabulary.py"):
        prune_vocabulary(Written().eval(), KEPT, SEQUENCES)
    with pytest.raises(PlanError, match="gt meets ids with 4, a number that means other tokens"):
        prune_vocabulary(Ordered().eval(), KEPT, SEQUENCES)
    compare(Written().eval(), list(range(20)))
    compare(Ordered().eval(), list(range(20)))


def test_what_has_no_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="no table is indexed by its inputs"):
        prune_vocabulary(Hot().eval(), KEPT, SEQUENCES)
    with pytest.raises(PlanError, match="the size 50 is a literal"):
        prune_vocabulary(Viewed().eval(), KEPT, SEQUENCES)
    with pytest.raises(InputError, match=r"50 is no token of words\.weight"):
        prune_vocabulary(Tagger().eval(), [*KEPT, 50], SEQUENCES)
    with pytest.raises(InputError, match="nothing is no token"):
        prune_vocabulary(Tagger().eval(), [], SEQUENCES)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", [Shifted, Other, Counted])
def test_ids_that_look_up_something_else_are_refused(kind: type[Tagger], device: str) -> None:
    """On ``meta`` there are no values by which a comparison would show it."""
    with pytest.raises(
        PlanError, match=r"(?s)uses ids of tokens for something else than rows of words\.weight.*where:"
    ):
        prune_vocabulary(kind().to(device).eval(), KEPT, SEQUENCES.clamp(max=WORDS - 2).to(device))


def test_models_on_meta() -> None:
    slim, _ = prune_vocabulary(Tagger().to("meta").eval(), KEPT, SEQUENCES.to("meta"))
    assert slim.get_parameter("words.weight").shape == (9, 16)


def llama() -> nn.Module:
    ids = {"pad_token_id": 0, "bos_token_id": 5, "eos_token_id": [7, 9]}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **ids, num_key_value_heads=2)).eval()


def test_llama_generates_the_same_and_is_loaded_by_transformers(tmp_path: Path) -> None:
    model = llama()
    slim, tokens = compare(model, KEPT)
    assert (slim.config.vocab_size, slim.config.bos_token_id, slim.config.eos_token_id) == (9, 3, [4, 5])
    assert slim.generation_config.eos_token_id == [4, 5] and model.generation_config.eos_token_id == [7, 9]
    others = [word for word in range(WORDS) if word not in KEPT]
    start = torch.tensor([[5, 20, 30]])
    wanted = model.generate(start, max_new_tokens=6, do_sample=False, suppress_tokens=others)
    found = slim.generate(tokens.new_ids(start), max_new_tokens=6, do_sample=False)
    assert torch.equal(tokens.old_ids(found), wanted)
    slim.save_pretrained(tmp_path / "stock")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "stock").eval()
    assert torch.equal(logits(again(tokens.new_ids(start))), logits(slim(tokens.new_ids(start))))
    graphprune.save(slim, tmp_path / "bundle")
    assert TokenMap.of(graphprune.load(tmp_path / "bundle")) == tokens


def test_padding_beyond_the_new_end() -> None:
    """Torch compares a table's padding with its rows, and configurations theirs with the vocabulary."""
    config = transformers.BertConfig(**SIZES, pad_token_id=WORDS - 1)
    slim, _ = compare(transformers.BertForMaskedLM(config).eval(), KEPT)
    assert (slim.config.vocab_size, slim.config.pad_token_id) == (9, 8)


def test_positions_that_are_counted_from_the_padding() -> None:
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 90}
    model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES, **ids)).eval()
    slim, _ = compare(model, KEPT)
    assert slim.get_parameter("roberta.embeddings.position_embeddings.weight").shape[0] == 90
    moved = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES, **{**ids, "pad_token_id": 20})).eval()
    with pytest.raises(VerificationError, match="without these words the program does something else"):
        prune_vocabulary(moved, KEPT, SEQUENCES)


def test_maps_of_ids() -> None:
    tokens = TokenMap((0, 3, 5), 8)
    ids = torch.tensor([[5, 3], [0, -100]])
    assert torch.equal(tokens.new_ids(ids), torch.tensor([[2, 1], [0, -100]]))
    assert torch.equal(tokens.old_ids(tokens.new_ids(ids)), ids)
    assert torch.equal(tokens.new_ids(torch.tensor([4, 5]), unknown=3), torch.tensor([1, 2]))
    with pytest.raises(InputError, match="token 4 is gone"):
        tokens.new_ids(torch.tensor([4]))
    with pytest.raises(InputError, match="unknown: token 4 is gone itself"):
        tokens.new_ids(torch.tensor([4]), unknown=4)
    with pytest.raises(InputError, match="8 is the id of no token"):
        tokens.new_ids(torch.tensor([8]))
    with pytest.raises(InputError, match="3 is the id of no token"):
        tokens.old_ids(torch.tensor([3]))
    with pytest.raises(InputError, match="has its whole vocabulary"):
        TokenMap.of(Bag())
    wrong: Any = [3]
    for ids in (wrong, torch.tensor([0.5]), torch.zeros(2, dtype=torch.long, device="meta")):
        for call in (tokens.new_ids, tokens.old_ids):
            with pytest.raises(InputError, match="ids: must be"):
                call(ids)
    with pytest.raises(InputError, match="number: must be the id of a token"):
        tokens.new_id(wrong)
    with pytest.raises(InputError, match="unknown: must be the id of a token"):
        tokens.new_ids(ids=torch.tensor([3]), unknown=wrong)


def test_words_may_go_twice_and_channels_after_them() -> None:
    slim, _ = prune_vocabulary(Tagger().eval(), KEPT, SEQUENCES)
    again, tokens = prune_vocabulary(slim, [0, 3, 8], torch.tensor([[0, 3, 8]]))
    assert tokens.kept == (0, 3, 8) and TokenMap.of(again) == TokenMap((0, 5, 49), WORDS)
    narrow = graphprune.prune_model(again, 0.5, torch.tensor([[0, 1, 2]]))
    assert TokenMap.of(narrow) == TokenMap((0, 5, 49), WORDS)


def test_all_words() -> None:
    model = Tagger().eval()
    slim, tokens = prune_vocabulary(model, range(WORDS), SEQUENCES)
    assert tokens.kept == tuple(range(WORDS))
    assert torch.equal(slim(SEQUENCES), model(SEQUENCES))
