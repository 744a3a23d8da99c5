"""The odd layers: small networks around one layer or one idiom each, which the big zoos do not have.

Every network has prunable layers before and behind the one in question. Tensors that a network is called with have the
examples in their first dimension, also where the layer inside wants them elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from benchmarks.zoos.common import Builder, Example, image

WIDTH = 24
"""Channels between the first layer of a network and its last."""

CLASSES, WORDS, TIME = 10, 40, 6


def models() -> dict[str, Builder]:
    """Small networks by the layer or idiom that they are about."""
    spatial = {
        name: partial(_spatial, rank, layer) for rank, table in _SPATIAL.items() for name, layer in table.items()
    }
    recurrent = {name: partial(_recurrent, kind, options) for name, (kind, options) in _RECURRENT.items()}
    sequences = {name: partial(_sequence, layer) for name, layer in _SEQUENCE.items()}
    attention = {name: partial(_attention, options) for name, options in _ATTENTION.items()}
    return spatial | recurrent | sequences | attention | _WHOLE


# ---------------------------------------------------------------- over waves, images and volumes

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def _spatial(rank: int, layer: Callable[[], nn.Module], inner: int = WIDTH) -> Example:
    """A layer between convolutions. Input: [1, 3, 8, ...]."""
    conv = _CONV[rank]
    network = nn.Sequential(
        conv(3, WIDTH, 3, padding=1),
        nn.ReLU(),
        layer(),
        nn.SiLU(),
        conv(inner, 16, 3, padding=1),
        nn.ReLU(),
        _POOL[rank](1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    return network, torch.randn(1, 3, *[8] * rank)


def _conv(size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, size, padding=size // 2, **options)


def _up(**options: Any) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1, **options)


def _shuffled() -> nn.Module:
    return nn.Sequential(_conv(1, groups=4), nn.ChannelShuffle(4), _conv(3, groups=WIDTH), _conv(1))


def _gated() -> nn.Module:
    return nn.Sequential(nn.Conv2d(WIDTH, 2 * WIDTH, 1), nn.GLU(dim=1))


def _bilinear_up() -> nn.Module:
    return nn.Sequential(_conv(1), nn.Upsample(scale_factor=2, mode="bilinear"))


_SPATIAL: dict[int, dict[str, Callable[[], nn.Module]]] = {
    1: {
        "conv1d": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
        "conv1d_grouped": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=4),
        "conv1d_dilated_causal": lambda: nn.Sequential(
            nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(WIDTH, WIDTH, 3, dilation=2)
        ),
        "conv_transpose1d": lambda: nn.ConvTranspose1d(WIDTH, WIDTH, 4, stride=2),
        "conv_transpose1d_grouped": lambda: nn.ConvTranspose1d(WIDTH, WIDTH, 4, stride=2, groups=4),
        "batch_norm1d": lambda: nn.BatchNorm1d(WIDTH),
        "instance_norm1d": lambda: nn.InstanceNorm1d(WIDTH, affine=True),
        "group_norm1d": lambda: nn.GroupNorm(4, WIDTH),
        "max_pool1d": lambda: nn.MaxPool1d(2),
        "lp_pool1d": lambda: nn.LPPool1d(2, 2),
        "adaptive_max_pool1d": lambda: nn.AdaptiveMaxPool1d(4),
        "upsample_linear1d": lambda: nn.Upsample(scale_factor=2, mode="linear"),
        "reflection_pad1d": lambda: nn.ReflectionPad1d(2),
        "circular_conv1d": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular"),
        "dropout1d": lambda: nn.Dropout1d(0.2),
    },
    2: {
        "conv_transpose2d": _up,
        "conv_transpose2d_grouped": lambda: _up(groups=4),
        "conv_transpose2d_depthwise": lambda: _up(groups=WIDTH),
        "weight_norm": lambda: parametrizations.weight_norm(_conv()),
        "weight_norm_transposed": lambda: parametrizations.weight_norm(_up(), dim=1),
        "weight_norm_whole": lambda: parametrizations.weight_norm(_conv(), dim=None),
        "weight_norm_hook": lambda: weight_norm(_conv()),
        "weight_norm_hook_transposed": lambda: weight_norm(_up(), dim=1),
        "spectral_norm": lambda: parametrizations.spectral_norm(_conv()),
        "spectral_norm_transposed": lambda: parametrizations.spectral_norm(_up()),
        "spectral_norm_hook": lambda: spectral_norm(_conv()),
        "prelu": lambda: nn.Sequential(_conv(1), nn.PReLU()),
        "prelu_channels": lambda: nn.Sequential(_conv(1), nn.PReLU(WIDTH)),
        "rrelu": lambda: nn.Sequential(_conv(1), nn.RReLU()),
        "group_norm": lambda: nn.Sequential(_conv(1), nn.GroupNorm(4, WIDTH)),
        "group_norm_one": lambda: nn.Sequential(_conv(1), nn.GroupNorm(1, WIDTH)),
        "group_norm_plain": lambda: nn.Sequential(_conv(1), nn.GroupNorm(6, WIDTH, affine=False)),
        "instance_norm": lambda: nn.Sequential(_conv(1), nn.InstanceNorm2d(WIDTH)),
        "instance_norm_affine": lambda: nn.Sequential(_conv(1), nn.InstanceNorm2d(WIDTH, affine=True)),
        "instance_norm_running": lambda: nn.InstanceNorm2d(WIDTH, affine=True, track_running_stats=True),
        "batch_norm_plain": lambda: nn.BatchNorm2d(WIDTH, affine=False),
        "batch_norm_batch": lambda: nn.BatchNorm2d(WIDTH, track_running_stats=False),
        "local_response_norm": lambda: nn.Sequential(_conv(1), nn.LocalResponseNorm(5)),
        "layer_norm_image": lambda: nn.LayerNorm([WIDTH, 8, 8]),
        "layer_norm_space": lambda: nn.LayerNorm([8, 8]),
        "rms_norm_image": lambda: nn.RMSNorm([WIDTH, 8, 8]),
        "softmax2d": lambda: nn.Sequential(_conv(1), nn.Softmax2d()),
        "channel_shuffle": _shuffled,
        "dropout2d": lambda: nn.Sequential(_conv(1), nn.Dropout2d(0.2)),
        "alpha_dropout": lambda: nn.Sequential(_conv(1), nn.SELU(), nn.AlphaDropout(0.2)),
        "feature_alpha_dropout": lambda: nn.Sequential(_conv(1), nn.SELU(), nn.FeatureAlphaDropout(0.2)),
        "glu": _gated,
        "max_pool_ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
        "lp_pool": lambda: nn.LPPool2d(2, 2),
        "adaptive_max_pool": lambda: nn.AdaptiveMaxPool2d(4),
        "upsample_bilinear": _bilinear_up,
        "upsample_bicubic": lambda: nn.Upsample(scale_factor=2, mode="bicubic"),
        "replication_pad": lambda: nn.ReplicationPad2d(1),
        "zero_pad": lambda: nn.ZeroPad2d(1),
        "circular_conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular"),
        "reflect_conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="reflect"),
        "fourier_operator": lambda: FourierOperator(WIDTH, 3),
        "fourier_operator_real": lambda: FourierOperator(WIDTH, 3, real=True),
        "global_filter": lambda: GlobalFilter(WIDTH, 8),
        "fourier_mixing": lambda: FourierMixing((-2, -1)),
        "fourier_mixing_channels": lambda: FourierMixing((1, -1)),
    },
    3: {
        "conv3d": lambda: nn.Conv3d(WIDTH, WIDTH, 3, padding=1),
        "conv3d_grouped": lambda: nn.Conv3d(WIDTH, WIDTH, 3, padding=1, groups=4),
        "conv_transpose3d": lambda: nn.ConvTranspose3d(WIDTH, WIDTH, 2, stride=2),
        "conv_transpose3d_grouped": lambda: nn.ConvTranspose3d(WIDTH, WIDTH, 2, stride=2, groups=4),
        "batch_norm3d": lambda: nn.BatchNorm3d(WIDTH),
        "instance_norm3d": lambda: nn.InstanceNorm3d(WIDTH, affine=True),
        "max_pool3d": lambda: nn.MaxPool3d(2),
        "avg_pool3d": lambda: nn.AvgPool3d(2),
        "adaptive_max_pool3d": lambda: nn.AdaptiveMaxPool3d(2),
        "upsample_trilinear": lambda: nn.Upsample(scale_factor=2, mode="trilinear"),
        "dropout3d": lambda: nn.Dropout3d(0.2),
    },
}


class FourierOperator(nn.Module):
    """Multiply the lowest frequencies by complex matrices (a Fourier neural operator). [B, C, H, W] to the same."""

    def __init__(self, width: int, modes: int, real: bool = False) -> None:
        super().__init__()
        self.width, self.modes, self.real = width, modes, real
        shape = (2, width, width, modes, modes)
        numbers = torch.randn(*shape, 2) if real else torch.randn(shape, dtype=torch.complex64)
        self.weight = nn.Parameter(numbers / width)
        self.skip = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = self.modes
        weight = torch.view_as_complex(self.weight) if self.real else self.weight
        spectrum = torch.fft.rfft2(x)
        out = torch.zeros(x.shape[0], self.width, x.shape[2], x.shape[3] // 2 + 1, dtype=spectrum.dtype)
        out[:, :, :n, :n] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :n, :n], weight[0])
        out[:, :, -n:, :n] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -n:, :n], weight[1])
        return torch.fft.irfft2(out, s=x.shape[-2:]) + self.skip(x)


class GlobalFilter(nn.Module):
    """A learned filter over all of space, multiplied in the frequency domain. [B, C, H, W] to the same."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size // 2 + 1, width, 2))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        spectrum = torch.fft.rfft2(x.permute(0, 2, 3, 1), dim=(1, 2), norm="ortho")
        filtered = spectrum * torch.view_as_complex(self.weight)
        return torch.fft.irfft2(filtered, s=(height, width), dim=(1, 2), norm="ortho").permute(0, 3, 1, 2)


class FourierMixing(nn.Module):
    """The real part of a Fourier transform instead of attention (FNet)."""

    def __init__(self, dims: tuple[int, int]) -> None:
        super().__init__()
        self.dims = dims
        self.conv = _conv(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(self.conv(x), dim=self.dims).real


# ---------------------------------------------------------------- recurrent


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones; what it returns at every step is read. [B, T, 12] to [B, T, 10]."""

    def __init__(self, kind: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.first = nn.Linear(12, WIDTH)
        self.layer = kind(WIDTH, 20, **options)
        sides = 2 if self.layer.bidirectional else 1
        self.last = nn.Linear(sides * (self.layer.proj_size or 20), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x if self.layer.batch_first else x.transpose(0, 1)
        x, _ = self.layer(x)
        x = x if self.layer.batch_first else x.transpose(0, 1)
        return self.last(x.relu())


def _recurrent(kind: Callable[..., nn.RNNBase], options: dict[str, Any]) -> Example:
    return Recurrent(kind, **options), torch.randn(1, TIME, 12)


_RECURRENT: dict[str, tuple[Callable[..., nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm_batch_first": (nn.LSTM, {"batch_first": True}),
    "lstm_stacked": (nn.LSTM, {"num_layers": 3, "batch_first": True}),
    "lstm_dropout": (nn.LSTM, {"num_layers": 2, "dropout": 0.2, "batch_first": True}),
    "lstm_bidirectional": (nn.LSTM, {"bidirectional": True, "batch_first": True}),
    "lstm_stacked_bidirectional": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm_without_bias": (nn.LSTM, {"bias": False, "batch_first": True}),
    "lstm_projected": (nn.LSTM, {"proj_size": 8, "batch_first": True}),
    "lstm_projected_stacked": (nn.LSTM, {"proj_size": 8, "num_layers": 2, "bidirectional": True}),
    "gru": (nn.GRU, {}),
    "gru_stacked": (nn.GRU, {"num_layers": 2, "batch_first": True}),
    "gru_bidirectional": (nn.GRU, {"bidirectional": True, "batch_first": True}),
    "gru_without_bias": (nn.GRU, {"bias": False}),
    "rnn": (nn.RNN, {"batch_first": True}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
    "rnn_bidirectional": (nn.RNN, {"bidirectional": True, "batch_first": True}),
}


class LastState(nn.Module):
    """A classifier of the last hidden states, of a packed batch if ``packed``. [B, T] of word numbers to [B, 10]."""

    def __init__(self, layer: nn.RNNBase, packed: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layer = layer
        self.packed = packed
        self.last = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x: Any = self.words(ids)
        if self.packed:
            lengths = torch.full((x.shape[0],), x.shape[1])
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, state = self.layer(x)
        hidden = state[0] if isinstance(state, tuple) else state
        if self.layer.bidirectional:
            return self.last(torch.cat([hidden[-2], hidden[-1]], dim=1))
        return self.last(hidden[-1])


class GivenState(nn.Module):
    """A recurrent decoder whose first state comes from what an encoder saw. [B, T, 12] to [B, T, 10]."""

    def __init__(self, kind: Callable[..., nn.RNNBase], layers: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Linear(12, WIDTH)
        self.state = nn.Linear(WIDTH, layers * 20)
        self.cell = nn.Linear(WIDTH, layers * 20) if kind is nn.LSTM else None
        self.layer = kind(WIDTH, 20, num_layers=layers, batch_first=True)
        self.last = nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x).relu()
        seen = x.mean(1)
        hidden = self._by_layer(self.state(seen))
        x, _ = self.layer(x, hidden if self.cell is None else (hidden, self._by_layer(self.cell(seen))))
        return self.last(x)

    def _by_layer(self, state: Tensor) -> Tensor:
        """[B, layers * hidden] to [layers, B, hidden]."""
        return state.view(state.shape[0], self.layer.num_layers, self.layer.hidden_size).transpose(0, 1).contiguous()


class Autoencoder(nn.Module):
    """One recurrent layer hands its state to another. [B, T, 12] to [B, T, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(12, 20, batch_first=True)
        self.decoder = nn.LSTM(12, 20, batch_first=True)
        self.last = nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.encoder(x)
        x, _ = self.decoder(x, state)
        return self.last(x)


class Cells(nn.Module):
    """A loop over time, written by hand around a cell. [B, T, 12] to [B, 10]."""

    def __init__(self, kind: Callable[..., nn.RNNCellBase], zeros: bool) -> None:
        super().__init__()
        self.hidden = 20
        self.first = nn.Linear(12, WIDTH)
        self.cell = kind(WIDTH, self.hidden)
        self.last = nn.Linear(self.hidden, CLASSES)
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        state: Any = None
        if self.zeros:
            state = torch.zeros(x.shape[0], self.hidden, device=x.device)
            state = (state, state.clone()) if isinstance(self.cell, nn.LSTMCell) else state
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.last(state[0] if isinstance(self.cell, nn.LSTMCell) else state)


class ConvLSTM(nn.Module):
    """A recurrent cell whose gates are one convolution. [B, T, 3, H, W] to [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 16
        self.gates = nn.Conv2d(3 + self.hidden, 4 * self.hidden, 3, padding=1)
        self.last = nn.Linear(self.hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = cell = torch.zeros(x.shape[0], self.hidden, *x.shape[-2:], device=x.device)
        for frame in x.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame, hidden], dim=1)).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self.last(hidden.mean((2, 3)))


def _last_state(kind: Callable[..., nn.RNNBase], packed: bool = False, **options: Any) -> Example:
    return LastState(kind(WIDTH, 20, batch_first=True, **options), packed), _ids()


def _normed(hook: bool) -> Example:
    """Recurrent weights of which direction and length are trained apart, on a copy of them or in place of them."""
    model, x = _recurrent(nn.LSTM, {"batch_first": True})
    norm = weight_norm if hook else parametrizations.weight_norm
    norm(model.layer, "weight_hh_l0")
    return model, x


def _given_state(kind: Callable[..., nn.RNNBase], layers: int = 1) -> Example:
    return GivenState(kind, layers), torch.randn(1, TIME, 12)


def _cells(kind: Callable[..., nn.RNNCellBase], zeros: bool) -> Example:
    return Cells(kind, zeros), torch.randn(1, TIME, 12)


def _ids(time: int = TIME) -> Tensor:
    return torch.randint(WORDS, (1, time))


# ---------------------------------------------------------------- over sequences


def _sequence(layer: Callable[[], nn.Module]) -> Example:
    """A layer between linear ones. Input: [1, 6, 12]."""
    network = nn.Sequential(
        nn.Linear(12, WIDTH), nn.GELU(), layer(), nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )
    return network, torch.randn(1, TIME, 12)


class Bilinear(nn.Module):
    """Two views of the input meet in a bilinear form."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, 20), nn.Linear(WIDTH, 14)
        self.form = nn.Bilinear(20, 14, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.left(x).relu(), self.right(x).relu())


class Raw(nn.Module):
    """Parameters used without a layer around them: ``einsum``, ``@``, a scale, a bias, a token to begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(WIDTH, 20) / 5)
        self.out = nn.Parameter(torch.randn(WIDTH, 20) / 5)
        self.scale = nn.Parameter(torch.ones(20))
        self.bias = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.begin = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.begin.expand(x.shape[0], -1, -1), x], dim=1)
        x = (x @ self.into).relu() * self.scale
        return torch.einsum("bti,oi->bto", x, self.out) + self.bias


class Experts(nn.Module):
    """Heads as one raw tensor, multiplied with ``einsum``."""

    def __init__(self, heads: int = 4, width: int = 6) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(heads, WIDTH, width) / 5)
        self.out = nn.Parameter(torch.randn(heads, width, WIDTH) / 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bti,hio->bhto", x, self.into).relu()
        return torch.einsum("bhti,hio->bto", x, self.out)


class Distances(nn.Module):
    """How far or how near two views of the input are, as a gate."""

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, 20), nn.Linear(WIDTH, 20)
        self.measure = measure

    def forward(self, x: Tensor) -> Tensor:
        near = self.measure(self.left(x), self.right(x))
        return x * (near if near.ndim == x.ndim else near.unsqueeze(-1)).mean(-1, keepdim=True)


class Residual(nn.Module):
    """``x + layer(norm(x))``."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.inner = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


def _mlp(inner: int = 32) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, inner), nn.GELU(), nn.Linear(inner, WIDTH))


def _twice() -> nn.Module:
    """The same module at two places."""
    shared = _mlp()
    return nn.Sequential(shared, nn.ReLU(), shared)


_SEQUENCE: dict[str, Callable[[], nn.Module]] = {
    "bilinear": Bilinear,
    "raw_parameters": Raw,
    "raw_heads": Experts,
    "twice": _twice,
    "rms_norm": lambda: Residual(nn.RMSNorm(WIDTH)),
    "rms_norm_plain": lambda: Residual(nn.RMSNorm(WIDTH, elementwise_affine=False)),
    "layer_norm": lambda: Residual(nn.LayerNorm(WIDTH)),
    "layer_norm_plain": lambda: Residual(nn.LayerNorm(WIDTH, elementwise_affine=False)),
    "layer_norm_without_bias": lambda: Residual(nn.LayerNorm(WIDTH, bias=False)),
    "layer_norm_two": lambda: Residual(nn.LayerNorm([TIME, WIDTH])),
    "glu_last": lambda: nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GLU()),
    "prelu_last": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.PReLU()),
    "softmax": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Softmax(-1)),
    "log_softmax": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LogSoftmax(-1)),
    "softmin": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Softmin(-1)),
    "spectral_norm_linear": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "spectral_norm_hook_linear": lambda: spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "orthogonal": lambda: nn.Sequential(_mlp(192), parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH))),
    "weight_norm_linear": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "weight_norm_hook_linear": lambda: weight_norm(nn.Linear(WIDTH, WIDTH)),
    "cosine_similarity": lambda: Distances(nn.CosineSimilarity(dim=-1)),
    "pairwise_distance": lambda: Distances(nn.PairwiseDistance()),
    "cdist": lambda: Distances(torch.cdist),
    "cdist_manhattan": lambda: Distances(partial(torch.cdist, p=1.0)),
    "normalize": lambda: Distances(lambda a, b: F.normalize(a, dim=-1) * F.normalize(b, dim=-1)),
    "renorm": lambda: Distances(lambda a, b: torch.renorm(a, 2, 0, 1.0) * b),
}


# ---------------------------------------------------------------- attention


class Attention(nn.Module):
    """``nn.MultiheadAttention`` between linear layers, to another sequence if ``cross``. [B, T, 12] to [B, T, 10]."""

    def __init__(self, cross: bool = False, weights: bool = False, mask: str = "", **options: Any) -> None:
        super().__init__()
        self.first = nn.Linear(12, WIDTH)
        self.key = nn.Linear(12, options.get("kdim", WIDTH)) if cross else None
        self.value = nn.Linear(12, options.get("vdim", WIDTH)) if cross else None
        self.layer = nn.MultiheadAttention(WIDTH, 4, **options)
        self.last = nn.Linear(WIDTH, CLASSES)
        self.weights, self.mask = weights, mask
        self.register_buffer("later", torch.ones(TIME, TIME, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        query = self.first(x).relu()
        key = query if self.key is None else self.key(x).relu()
        value = query if self.value is None else self.value(x).relu()
        if not self.layer.batch_first:
            query, key, value = (y.transpose(0, 1) for y in (query, key, value))
        out, weights = self.layer(query, key, value, padding, self.weights, self._mask())
        out = out if self.layer.batch_first else out.transpose(0, 1)
        return self.last(out) if weights is None else self.last(out) + weights.mean()

    def _mask(self) -> Tensor | None:
        if self.mask == "additive":
            return torch.zeros(TIME, TIME).masked_fill(self.later, float("-inf"))
        return self.later if self.mask == "boolean" else None


def _attention(options: dict[str, Any]) -> Example:
    padded = options.pop("padded", False) if (options := dict(options)) else False
    x = torch.randn(1, TIME, 12)
    return Attention(**options), (x, torch.tensor([[False] * (TIME - 2) + [True] * 2])) if padded else x


_ATTENTION: dict[str, dict[str, Any]] = {
    "attention": {},
    "attention_batch_first": {"batch_first": True},
    "attention_weights": {"weights": True, "batch_first": True},
    "attention_weights_time_first": {"weights": True},
    "attention_without_bias": {"bias": False, "batch_first": True},
    "attention_cross": {"cross": True, "batch_first": True},
    "attention_kdim_vdim": {"cross": True, "kdim": 18, "vdim": 14, "batch_first": True},
    "attention_kdim_vdim_weights": {"cross": True, "kdim": 18, "vdim": 14, "weights": True},
    "attention_bias_kv": {"add_bias_kv": True, "batch_first": True},
    "attention_bias_kv_weights": {"add_bias_kv": True, "weights": True},
    "attention_zero": {"add_zero_attn": True, "batch_first": True},
    "attention_zero_weights": {"add_zero_attn": True, "weights": True},
    "attention_bias_zero_masked": {"add_bias_kv": True, "add_zero_attn": True, "mask": "boolean", "padded": True},
    "attention_masked": {"mask": "boolean", "batch_first": True},
    "attention_masked_weights": {"mask": "additive", "weights": True, "batch_first": True},
    "attention_padded": {"padded": True, "batch_first": True},
    "attention_masked_padded": {"padded": True, "mask": "boolean", "weights": True},
    "attention_dropout": {"dropout": 0.2, "batch_first": True},
}


class Translator(nn.Module):
    """``nn.Transformer`` between embeddings and a head. Two [B, T] of word numbers to [B, T, 40]."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.place = nn.Parameter(torch.randn(1, TIME, WIDTH) / 5)
        self.layer = nn.Transformer(WIDTH, 4, 2, 2, 32, 0.1, batch_first=True, **options)
        self.last = nn.Linear(WIDTH, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        later = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        seen, said = self.source(source) + self.place, self.target(target) + self.place
        return self.last(self.layer(seen, said, tgt_mask=later))


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` on a linear layer; time first unless ``batch_first``. [B, T, 12] to [B, 10]."""

    def __init__(self, layers: int = 2, **options: Any) -> None:
        super().__init__()
        self.batch_first = options.get("batch_first", False)
        self.first = nn.Linear(12, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, **options)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.layers(x if self.batch_first else x.transpose(0, 1))
        return self.last(x.mean(1 if self.batch_first else 0))


class Decoder(nn.Module):
    """``nn.TransformerDecoderLayer`` that looks at a memory of another length. [B, T, 12] to [B, T, 10]."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first, self.memory = nn.Linear(12, WIDTH), nn.Linear(12, WIDTH)
        self.layer = nn.TransformerDecoderLayer(WIDTH, 4, 32, batch_first=True, **options)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x), self.memory(x[:, :4])))


# ---------------------------------------------------------------- networks as a whole


class Language(nn.Module):
    """Words in and words out; ``tied``: with one table for both. [B, T] of word numbers to [B, T, 40]."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.block = Residual(nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.words(ids)))


class Bags(nn.Module):
    """Sums, means or maxima of word vectors, all at once or with ``offsets``. [B, T] of word numbers to [B, 10]."""

    def __init__(self, mode: str, offsets: bool = False, weighted: bool = False) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(WORDS, WIDTH, mode=mode)
        self.offsets, self.weighted = offsets, weighted
        self.last = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        if self.offsets:
            starts = torch.arange(ids.shape[0]) * ids.shape[1]
            return self.last(self.words(ids.flatten(), starts))
        weights = torch.linspace(0.5, 1.5, ids.shape[1]).expand(ids.shape) if self.weighted else None
        return self.last(self.words(ids, per_sample_weights=weights))


class TiedAutoencoder(nn.Module):
    """The decoder is the transpose of the encoder. [B, 12] to [B, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, WIDTH)
        self.back, self.out = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        x = F.linear(x, self.second.weight.t(), self.back).relu()
        return F.linear(x, self.first.weight.t(), self.out)


def _language(tied: bool) -> Example:
    return Language(tied), _ids()


def _bags(mode: str, **options: bool) -> Example:
    return Bags(mode, **options), _ids()


def _channels_last() -> Example:
    """Model and input laid out with the channels last in memory."""
    network, x = _spatial(2, lambda: nn.Sequential(_conv(3, groups=4), nn.BatchNorm2d(WIDTH), nn.PReLU(WIDTH)))
    return network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)


def _channels_last_flat() -> Example:
    """Channels last, and flattened with their positions."""
    network = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(WIDTH * 16, CLASSES)
    )
    return network.to(memory_format=torch.channels_last), image(16).contiguous(memory_format=torch.channels_last)


def _complex_conv() -> Example:
    return ComplexNetwork(), torch.randn(1, 3, 8, 8)


class ComplexNetwork(nn.Module):
    """Complex numbers: two real convolutions make them, and their parts are read. [B, 3, H, W] to [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(3, WIDTH, 3)
        self.mix = nn.Parameter(torch.randn(20, WIDTH, dtype=torch.complex64) / 5)
        self.last = nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(self.real(x), self.imaginary(x)).mean((2, 3))
        z = z @ self.mix.T
        z = z * torch.polar(z.abs().tanh(), z.angle())
        return self.last(torch.cat([z.real, z.imag], dim=1))


def _translator(norm_first: bool) -> Example:
    return Translator(norm_first=norm_first), (_ids(), _ids())


def _encoder(**options: Any) -> Example:
    return Encoder(**options), torch.randn(1, TIME, 12)


def _decoder(norm_first: bool) -> Example:
    return Decoder(norm_first=norm_first), torch.randn(1, TIME, 12)


_WHOLE: dict[str, Builder] = {
    "lstm_last_state": partial(_last_state, nn.LSTM),
    "lstm_last_state_stacked": partial(_last_state, nn.LSTM, num_layers=2),
    "gru_last_state_bidirectional": partial(_last_state, nn.GRU, bidirectional=True),
    "lstm_packed": partial(_last_state, nn.LSTM, packed=True),
    "gru_packed_bidirectional": partial(_last_state, nn.GRU, packed=True, bidirectional=True),
    "lstm_weight_norm": partial(_normed, hook=False),
    "lstm_weight_norm_hook": partial(_normed, hook=True),
    "lstm_given_state": partial(_given_state, nn.LSTM),
    "gru_given_state_stacked": partial(_given_state, nn.GRU, layers=2),
    "rnn_given_state": partial(_given_state, nn.RNN),
    "lstm_autoencoder": lambda: (Autoencoder(), torch.randn(1, TIME, 12)),
    "lstm_cell": partial(_cells, nn.LSTMCell, zeros=False),
    "lstm_cell_zeros": partial(_cells, nn.LSTMCell, zeros=True),
    "gru_cell": partial(_cells, nn.GRUCell, zeros=False),
    "gru_cell_zeros": partial(_cells, nn.GRUCell, zeros=True),
    "rnn_cell": partial(_cells, nn.RNNCell, zeros=False),
    "conv_lstm": lambda: (ConvLSTM(), torch.randn(1, 3, 3, 8, 8)),
    "transformer": partial(_translator, norm_first=False),
    "transformer_norm_first": partial(_translator, norm_first=True),
    "transformer_encoder": partial(_encoder, batch_first=True),
    "transformer_encoder_norm_first": partial(_encoder, batch_first=True, norm_first=True),
    "transformer_encoder_time_first": partial(_encoder, activation="gelu"),
    "transformer_encoder_without_bias": partial(_encoder, bias=False, batch_first=True),
    "transformer_decoder": partial(_decoder, norm_first=False),
    "transformer_decoder_norm_first": partial(_decoder, norm_first=True),
    "embedding": partial(_language, tied=False),
    "tied_embedding": partial(_language, tied=True),
    "embedding_bag_sum": partial(_bags, "sum"),
    "embedding_bag_mean": partial(_bags, "mean"),
    "embedding_bag_max": partial(_bags, "max"),
    "embedding_bag_offsets": partial(_bags, "mean", offsets=True),
    "embedding_bag_weighted": partial(_bags, "sum", weighted=True),
    "tied_autoencoder": lambda: (TiedAutoencoder(), torch.randn(1, 12)),
    "channels_last": _channels_last,
    "channels_last_flat": _channels_last_flat,
    "complex": _complex_conv,
}
