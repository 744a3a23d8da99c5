"""Libraries that listen and speak: separation, recognition, vocoders."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoos.third_party.later import Later, Table, found_in_library, later, noise

_WAVE, _MEL = partial(noise, 1, 1, 1600), partial(noise, 1, 40, 16)

# ---------------------------------------------------------------- asteroid

_SEPARATOR: dict[str, Any] = {"n_src": 2, "bn_chan": 24, "n_filters": 32}
_CHUNKS: dict[str, Any] = {"n_src": 2, "n_repeats": 1, "n_filters": 32, "chunk_size": 20}
_DCUNET = {"stft_n_filters": 256, "stft_kernel_size": 256, "stft_stride": 64}


def _separator(name: str, *arguments: Any, **options: Any) -> Later:
    return later(f"asteroid.models:{name}", *arguments, **options)


_ASTEROID: Table = {
    "convtasnet": (
        _separator("ConvTasNet", **_SEPARATOR, n_blocks=2, n_repeats=1, hid_chan=48, skip_chan=24),
        _WAVE,
    ),
    "convtasnet_causal": (
        _separator(
            "ConvTasNet", **_SEPARATOR, n_blocks=2, n_repeats=1, hid_chan=48, skip_chan=24, causal=True, norm_type="cLN"
        ),
        _WAVE,
    ),
    "dprnn": (_separator("DPRNNTasNet", **_CHUNKS, bn_chan=24, hid_size=32), _WAVE),
    "dptnet": (_separator("DPTNet", **_CHUNKS, ff_hid=32), _WAVE),
    "lstm_tasnet": (
        _separator("LSTMTasNet", n_src=2, hid_size=32, n_filters=32, rnn_type="lstm", n_layers=1, dropout=0),
        _WAVE,
    ),
    "sudormrf": (_separator("SuDORMRFNet", **_SEPARATOR, num_blocks=1, upsampling_depth=2), _WAVE),
    "sudormrf_improved": (_separator("SuDORMRFImprovedNet", **_SEPARATOR, num_blocks=1, upsampling_depth=2), _WAVE),
    "demask": (
        _separator("DeMask", hidden_dims=(64,), n_filters=128, kernel_size=128, stride=64),
        _WAVE,
    ),
    "dcunet": (_separator("DCUNet", "mini", **_DCUNET, fix_length_mode="pad"), partial(noise, 1, 1, 4096)),
}

# ---------------------------------------------------------------- torchaudio


def _squim() -> nn.Module:
    return found_in_library("torchaudio.models:squim_objective_model")(
        feat_dim=32, win_len=32, d_model=24, nhead=4, hidden_dim=24, num_blocks=1, rnn_type="LSTM", chunk_size=20
    )


def _wav2vec2() -> nn.Module:
    return found_in_library("torchaudio.models:wav2vec2_model")(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(24, 10, 5), (32, 3, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=48,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=96,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=10,
    )


_TORCHAUDIO: Table = {
    "conformer": (
        later(
            "torchaudio.models:Conformer",
            input_dim=48,
            num_heads=4,
            ffn_dim=64,
            num_layers=1,
            depthwise_conv_kernel_size=7,
        ),
        lambda: (noise(1, 16, 48), torch.tensor([16])),
    ),
    "convtasnet": (
        later(
            "torchaudio.models:ConvTasNet",
            enc_num_feats=32,
            msk_num_feats=24,
            msk_num_hidden_feats=32,
            msk_num_layers=2,
            msk_num_stacks=1,
        ),
        partial(noise, 1, 1, 800),
    ),
    "deepspeech": (later("torchaudio.models:DeepSpeech", 40, n_hidden=48, n_class=10), partial(noise, 1, 1, 16, 40)),
    "wav2letter": (later("torchaudio.models:Wav2Letter", 10, "mfcc", 40), partial(noise, 1, 40, 64)),
    "wavernn": (
        later(
            "torchaudio.models:WaveRNN",
            upsample_scales=[5, 4],
            n_classes=16,
            hop_length=20,
            n_res_block=1,
            n_rnn=32,
            n_fc=32,
            n_freq=20,
            n_hidden=24,
            n_output=24,
        ),
        lambda: (noise(1, 1, 120), noise(1, 1, 20, 10)),
    ),
    "wav2vec2": (_wav2vec2, partial(noise, 1, 1600)),
    "squim": (_squim, partial(noise, 1, 1600)),
    "emformer": (
        later("torchaudio.models:Emformer", 48, 4, 64, 1, segment_length=4, right_context_length=1),
        lambda: (noise(1, 17, 48), torch.tensor([17])),
    ),
}

# ---------------------------------------------------------------- speechbrain

_LOBES = "speechbrain.lobes.models"
_SPEECHBRAIN: Table = {
    "ecapa_tdnn": (
        later(
            f"{_LOBES}.ECAPA_TDNN:ECAPA_TDNN",
            40,
            lin_neurons=16,
            channels=[32, 32, 32, 32, 96],
            attention_channels=16,
            res2net_scale=4,
            se_channels=16,
        ),
        partial(noise, 1, 16, 40),
    ),
    "xvector": (
        later(
            f"{_LOBES}.Xvector:Xvector",
            tdnn_blocks=3,
            tdnn_channels=[32, 32, 48],
            tdnn_kernel_sizes=[3, 3, 1],
            tdnn_dilations=[1, 2, 1],
            lin_neurons=16,
            in_channels=40,
        ),
        partial(noise, 1, 16, 40),
    ),
    "crdnn": (
        later(
            f"{_LOBES}.CRDNN:CRDNN",
            input_size=40,
            cnn_channels=(16, 24),
            rnn_neurons=32,
            rnn_layers=1,
            dnn_neurons=32,
            dnn_blocks=1,
        ),
        partial(noise, 1, 16, 40),
    ),
    "cnn14": (later(f"{_LOBES}.Cnn14:Cnn14", mel_bins=32, emb_dim=64), partial(noise, 1, 64, 32)),
    "hifigan_generator": (
        later(
            f"{_LOBES}.HifiGAN:HifiganGenerator",
            in_channels=40,
            out_channels=1,
            resblock_type="1",
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            resblock_kernel_sizes=[3, 5],
            upsample_kernel_sizes=[8, 4],
            upsample_initial_channel=48,
            upsample_factors=[4, 2],
        ),
        _MEL,
    ),
}

# ---------------------------------------------------------------- others


def _encodec(*parts: str) -> nn.Module:
    """The encoder and the decoder one after the other, without the codebooks between them."""
    options = {"dimension": 32, "n_filters": 8, "ratios": [4, 2], "lstm": 1, "n_residual_layers": 1}
    return nn.Sequential(*(found_in_library(f"encodec.modules.seanet:{part}")(**options) for part in parts))


_DEMUCS: dict[str, Any] = {"sources": ["voice", "rest"], "audio_channels": 1}

_OTHERS: Table = {
    "encodec.seanet": (partial(_encodec, "SEANetEncoder", "SEANetDecoder"), partial(noise, 1, 1, 256)),
    "vocos.vocoder": (
        Later(
            "torch.nn:Sequential",
            (
                later("vocos.models:VocosBackbone", 40, 48, 96, 2),
                later("vocos.heads:ISTFTHead", 48, 64, 16, padding="center"),
            ),
        ),
        _MEL,
    ),
    "demucs.demucs": (
        later("demucs.demucs:Demucs", **_DEMUCS, channels=16, depth=2, dconv_mode=1, resample=False),
        partial(noise, 1, 1, 1024),
    ),
    "demucs.hdemucs": (
        later("demucs.hdemucs:HDemucs", **_DEMUCS, channels=16, nfft=256, depth=3, hybrid=True, freq_emb=0.2),
        partial(noise, 1, 1, 2048),
    ),
    "demucs.htdemucs": (
        later(
            "demucs.htdemucs:HTDemucs",
            **_DEMUCS,
            channels=16,
            nfft=256,
            depth=2,
            t_layers=1,
            t_heads=4,
            bottom_channels=32,
            segment=0.04,
            samplerate=44100,
        ),
        partial(noise, 1, 1, 1764),
    ),
}

TABLE: Table = {
    **{f"asteroid.{name}": entry for name, entry in _ASTEROID.items()},
    **{f"torchaudio.{name}": entry for name, entry in _TORCHAUDIO.items()},
    **{f"speechbrain.{name}": entry for name, entry in _SPEECHBRAIN.items()},
    **_OTHERS,
}
