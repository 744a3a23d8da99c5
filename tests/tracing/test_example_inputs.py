"""Guessing example inputs, and bringing what a user passes into one form."""

import re
from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import InputError
from graphprune.tracing.example_inputs.from_configs import _dummy_inputs
from graphprune.tracing.example_inputs.guess import candidate_inputs, example_inputs_for, first_that_runs
from graphprune.tracing.inputs import MethodCall, calls_of, check_samples, describe, normalize


class LeNet(nn.Sequential):
    """A network that only one image size fits."""

    def __init__(self, side: int = 28, channels: int = 1) -> None:
        features = 4 * ((side - 4) // 2) ** 2
        super().__init__(
            nn.Conv2d(channels, 4, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(features, 10),
        )


class Two(nn.Module):
    """A network with an argument that cannot be guessed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x, mask):
        return self.linear(x) * mask


class Configured(nn.Module):
    """What a Transformers model looks like from outside: a configuration and the name of its main input."""

    def __init__(self, main: str, **config) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="toy", **config)
        self.main_input_name = main
        self.embed = nn.Embedding(config.get("vocab_size", 10), 4)

    def forward(self, input_ids=None, pixel_values=None, decoder_input_ids=None):
        return self.embed(input_ids)


def guessed(model: nn.Module) -> str:
    return describe(example_inputs_for(model))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Conv2d(3, 4, 3), "f32[1, 3, 224, 224]"),
        (LeNet(28), "f32[1, 1, 28, 28]"),
        (LeNet(32, channels=3), "f32[1, 3, 32, 32]"),
        (nn.Conv1d(2, 4, 3), "f32[1, 2, 1024]"),
        (nn.Conv3d(1, 2, 3), "f32[1, 1, 16, 112, 112]"),
        (nn.ConvTranspose2d(6, 4, 3), "f32[1, 6, 4, 4]"),
        (nn.Embedding(50, 4), "i64[1, 16]"),
        (nn.Linear(7, 3), "f32[1, 7]"),
        (nn.Linear(7, 3).double(), "f64[1, 7]"),
        (nn.LSTM(5, 6), "f32[1, 16, 5]"),
        (nn.GRU(5, 6, batch_first=True), "f32[1, 16, 5]"),
        (nn.TransformerEncoderLayer(8, 2, 16), "f32[1, 16, 8]"),
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)), "f32[1, 16, 6]"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), "f32[1, 3, 224, 224]"),
    ],
)
def test_guess_from_the_first_layer(model, expected):
    assert guessed(model) == expected


def test_image_size_of_an_attribute_comes_first():
    model = nn.Conv2d(3, 4, 3)
    model.image_size = 48
    assert describe(next(candidate_inputs(model))) == "f32[1, 3, 48, 48]"


def test_timm_configuration_is_used_and_the_real_channels_win():
    model = nn.Sequential(nn.Conv2d(1, 4, 3))
    model.pretrained_cfg = {"input_size": (3, 96, 96)}
    assert [describe(guess) for guess in candidate_inputs(model)][:2] == ["f32[1, 3, 96, 96]", "f32[1, 1, 96, 96]"]
    assert guessed(model) == "f32[1, 1, 96, 96]"


def test_token_ids_avoid_special_ones_and_end_with_end_of_sequence():
    model = Configured("input_ids", vocab_size=5, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    ids = example_inputs_for(model)["input_ids"]
    assert ids[0, -1] == 2
    assert set(ids[0, :-1].tolist()) <= {3, 4}


def test_short_position_table_shortens_the_sequence():
    model = Configured("input_ids", vocab_size=9, max_position_embeddings=4)
    assert describe(next(candidate_inputs(model))) == "input_ids=i64[1, 4]"


def test_image_size_of_a_configuration_may_be_a_pair():
    model = Configured("pixel_values", image_size=(16, 24), num_channels=1)
    assert describe(next(candidate_inputs(model))) == "pixel_values=f32[1, 1, 16, 24]"


def test_encoder_decoder_gets_decoder_tokens_first():
    model = Configured("input_ids", vocab_size=9, is_encoder_decoder=True)
    first, second, *_ = candidate_inputs(model)
    assert sorted(first) == ["decoder_input_ids", "input_ids"]
    assert sorted(second) == ["input_ids"]


def test_text_and_image_model_gets_both():
    parts = {"text_config": SimpleNamespace(model_type="text", vocab_size=9)}
    parts["vision_config"] = SimpleNamespace(model_type="vision", image_size=8)
    model = Configured("input_ids", **parts)
    assert describe(next(candidate_inputs(model))) == "input_ids=i64[1, 16], pixel_values=f32[1, 3, 8, 8]"


def test_dummy_inputs_are_the_last_resort():
    model = Configured("input_ids", vocab_size=9)
    model.dummy_inputs = {"input_ids": torch.zeros(3, 5, dtype=torch.long)}
    assert "input_ids=i64[3, 5]" in [describe(guess) for guess in candidate_inputs(model)]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "BertForSequenceClassification",
            {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
            "input_ids=i64[1, 16]",
        ),
        (
            "T5ForConditionalGeneration",
            {"d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 8, "num_layers": 1, "vocab_size": 20},
            "input_ids=i64[1, 16], decoder_input_ids=i64[1, 16]",
        ),
        (
            "ViTForImageClassification",
            {
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 8,
                "image_size": 16,
                "patch_size": 8,
            },
            "pixel_values=f32[1, 3, 16, 16]",
        ),
    ],
)
def test_transformers_models_run_on_what_is_guessed(name, options, expected):
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, name)
    assert guessed(cls(cls.config_class(**options))) == expected


def test_guessing_leaves_the_global_random_state_and_the_model_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    model[1].eval()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    example_inputs_for(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and not model[1].training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_guesses_are_reproducible():
    first, second = (example_inputs_for(nn.Linear(5, 2))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_first_that_runs_returns_the_inputs_and_the_result():
    inputs, side = first_that_runs(LeNet(32), lambda guess: LeNet(32)(*guess) is not None and guess[0].shape[-1])
    assert describe(inputs) == "f32[1, 1, 32, 32]"
    assert side == 32


def test_error_says_what_was_tried_why_it_failed_and_what_to_pass():
    with pytest.raises(InputError) as caught:
        example_inputs_for(Two())
    message = str(caught.value)
    assert "no guessed example inputs fit Two; tried f32[1, 3], f32[1, 16, 3]" in message
    assert "failed with TypeError" in message and "'mask'" in message
    assert "Two.forward(x, mask)" in message
    assert "example_inputs=torch.randn(" in message
    assert isinstance(caught.value.__cause__, TypeError)


class Mistaken(nn.Module):
    """Fails for what fits, by a mistake of its own, and for all else because it does not fit."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        features = self.first(x)
        raise ValueError(f"no pyramid of {features.dim()} dimensions")


def test_what_the_likeliest_guess_failed_with_is_told():
    with pytest.raises(InputError, match=r"the first one, f32\[1, 3, 224, 224\], failed .* no pyramid of 4 dimensions"):
        example_inputs_for(Mistaken())


def test_error_for_a_model_without_a_layer_to_read():
    with pytest.raises(
        InputError, match=r"no example inputs for ReLU can be guessed[\s\S]*example_inputs=torch\.randn"
    ):
        example_inputs_for(nn.ReLU())


def test_error_for_lazy_layers_does_not_guess_zero_channels():
    with pytest.raises(InputError, match="can be guessed"):
        example_inputs_for(nn.LazyConv2d(4, 3))


def test_long_failure_is_cut():
    def fail(_):
        raise ValueError("x" * 5000)

    with pytest.raises(InputError) as caught:
        first_that_runs(nn.Linear(2, 2), fail)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("given", "positional", "named"),
    [
        (torch.zeros(1), 1, []),
        ((torch.zeros(1), 2), 2, []),
        ([torch.zeros(1)], 1, []),
        ({"x": torch.zeros(1)}, 0, ["x"]),
        (UserDict(x=torch.zeros(1)), 0, ["x"]),
    ],
)
def test_normalize(given, positional, named):
    args, kwargs = normalize(given)
    assert isinstance(args, tuple) and len(args) == positional
    assert isinstance(kwargs, dict) and list(kwargs) == named


@pytest.mark.parametrize(("given", "said"), [(3, "an int"), ("x", "a str"), (None, "a NoneType")])
def test_normalize_refuses_anything_else(given, said):
    with pytest.raises(InputError, match=rf"example_inputs: is {said}[\s\S]*needed: a tensor"):
        normalize(given)


def test_normalize_refuses_a_dict_that_is_not_of_keywords():
    with pytest.raises(InputError, match=re.escape("example_inputs=(d,)")):
        normalize({0: torch.zeros(1)})


@pytest.mark.parametrize(
    "given",
    [torch.zeros(0, 3, 8, 8), (torch.zeros(0, 5), torch.zeros(0)), {"x": torch.zeros(0, 5), "t": torch.tensor(3.0)}],
)
def test_inputs_without_a_sample_of_which_nothing_comes_are_refused(given):
    for calls in (calls_of(given), calls_of([given, given])):
        with pytest.raises(InputError, match=r"example_inputs: holds no samples[\s\S]*found: *f32\[0, "):
            check_samples(calls, [(0, 10)])
        check_samples(calls, [(0, 10), (3, 10)])


@pytest.mark.parametrize(
    "given",
    [
        (torch.zeros(1, 5), torch.zeros(0, 4)),
        (torch.zeros(0, 4), torch.zeros(1, 5)),
        torch.zeros(1, 0, dtype=torch.long),
        [torch.zeros(1, 5), torch.zeros(0, 5)],
        torch.tensor(2.0),
        MethodCall("averaged"),
    ],
)
def test_inputs_of_which_only_a_part_is_empty_are_taken(given):
    check_samples(calls_of(given), [(0, 10)])


class Remembering(torch.nn.Module):
    """A step after those that are remembered, of which there may be none."""

    def __init__(self):
        super().__init__()
        self.embed, self.enter, self.leave = torch.nn.Embedding(10, 16), torch.nn.Linear(16, 32), torch.nn.Linear(32, 4)

    def forward(self, steps, memory):
        return self.leave(self.enter(torch.cat([memory, self.embed(torch.arange(steps))])).relu())


def test_an_empty_memory_is_no_empty_batch():
    slim = graphprune.prune_model(Remembering().eval(), 0.5, (3, torch.zeros(0, 16)))
    assert slim.enter.out_features == 16
    with pytest.raises(InputError, match="example_inputs: holds no samples"):
        graphprune.trace(torch.nn.Linear(3, 4), torch.zeros(0, 3))


def test_describe():
    mixed = (torch.zeros(2, dtype=torch.bfloat16), {"mask": torch.ones(1, 3, dtype=torch.bool)}, None)
    assert describe(mixed) == "bf16[2], mask=bool[1, 3], None"


def test_dummy_inputs_that_fail_are_not_passed_over_in_silence():
    class Broken(nn.Module):
        @property
        def dummy_inputs(self):
            raise ValueError("no tokenizer")

    with pytest.warns(UserWarning, match=r"Broken.dummy_inputs failed with ValueError: no tokenizer; it is not among"):
        assert list(_dummy_inputs(Broken(), "input_ids")) == []


class Counts(nn.Module):
    """A network that counts its calls, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.linear(x) + torch.randn(1)


def test_guessing_leaves_the_model_and_random_numbers_as_they_were() -> None:
    model, before = Counts().eval(), torch.get_rng_state()
    example_inputs_for(model)
    assert model.calls.item() == 0 and torch.equal(torch.get_rng_state(), before)
