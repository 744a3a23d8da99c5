"""Odd networks that look at images: every way in which channels are moved about, gated, woven and put side by side."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 3, **more: int) -> nn.Sequential:
    """Convolution that keeps the size of the image, BatchNorm, ReLU."""
    more.setdefault("padding", kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, bias=False, **more)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Head(nn.Module):
    """Average over space and classify."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(x).flatten(1))


class SuperResolution(nn.Module):
    """ESPCN: channels become space at the end (PixelShuffle); ``inner``: in the middle too, on 24 channels."""

    def __init__(self, inner: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 32, 5), conv(32, 24))
        self.grow = nn.Sequential(nn.Conv2d(24, 96, 3, padding=1), nn.PixelShuffle(2)) if inner else nn.Identity()
        self.leave = nn.Sequential(nn.Conv2d(24, 27, 3, padding=1), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.grow(self.features(x)))


class SpaceToDepth(nn.Module):
    """PixelUnshuffle instead of strides, and the way back with PixelShuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = conv(3, 16)
        self.down = nn.PixelUnshuffle(2)
        self.body = nn.Sequential(conv(64, 32), conv(32, 64))
        self.leave = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        deep = self.body(self.down(x))
        return self.leave(x + F.pixel_shuffle(deep, 2))


class UnfoldConv(nn.Module):
    """A convolution as a matrix product over unfolded patches; its transpose is folded back."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / (kernel * inputs**0.5))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.kernel // 2)
        out = self.weight.flatten(1) @ patches
        return out.view(x.shape[0], -1, *x.shape[2:])

    def transposed(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        patches = self.weight.flatten(1).t() @ x.flatten(2)
        return F.fold(patches, size, self.kernel, padding=self.kernel // 2)


class FoldUnfold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = conv(3, 16)
        self.middle = UnfoldConv(16, 24)
        self.back = UnfoldConv(20, 24)
        self.patches = nn.Linear(20 * 4, 20 * 4)
        self.head = Head(20)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.middle(self.enter(x)))
        x = F.gelu(self.back.transposed(x, x.shape[-2:]))
        columns = F.unfold(x, 2, stride=2).transpose(1, 2)
        x = F.fold(self.patches(columns).transpose(1, 2), x.shape[-2:], 2, stride=2)
        return self.head(x)


class Deformable(nn.Module):
    """Deformable convolution (modulated, with one or two offset groups) with offsets from the same features."""

    def __init__(self, offset_groups: int = 1) -> None:
        super().__init__()
        from torchvision.ops import DeformConv2d

        self.enter = conv(3, 24)
        self.offset = nn.Conv2d(24, offset_groups * 18, 3, padding=1)
        self.mask = nn.Conv2d(24, offset_groups * 9, 3, padding=1)
        self.deform = DeformConv2d(24, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.head = Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = self.deform(x, self.offset(x), torch.sigmoid(self.mask(x)))
        return self.head(F.relu(self.norm(x)))


class SpatialTransformer(nn.Module):
    """A learned affine map, applied to features with grid_sample."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = conv(3, 24)
        self.locate = nn.Sequential(conv(24, 16), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 6))
        self.body = conv(24, 32)
        self.head = Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        theta = self.locate(x).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.size()), align_corners=False)
        return self.head(self.body(F.grid_sample(x, grid, align_corners=False)))


class SampledAttention(nn.Module):
    """Deformable attention: each head samples its values with grid_sample where the query says."""

    def __init__(self, width: int = 32, heads: int = 4, points: int = 3) -> None:
        super().__init__()
        self.heads, self.indexed = heads, points
        self.enter = conv(3, width)
        self.value = nn.Conv2d(width, width, 1)
        self.offsets = nn.Conv2d(width, heads * points * 2, 1)
        self.weights = nn.Conv2d(width, heads * points, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.head = Head(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, _, h, w = x.shape
        value = self.value(x).view(b, self.heads, -1, h, w).flatten(0, 1)
        places = self.offsets(x).view(b * self.heads, self.indexed, 2, h * w).permute(0, 3, 1, 2).tanh()
        weights = self.weights(x).view(b, self.heads, self.indexed, h * w).softmax(2)
        sampled = F.grid_sample(value, places, align_corners=False).view(b, self.heads, -1, h * w, self.indexed)
        out = (sampled * weights.transpose(2, 3).unsqueeze(2)).sum(-1)
        return self.head(x + self.out(out.reshape(b, -1, h, w)))


class UNet(nn.Module):
    """Skips by concatenation; up by transposed convolution, or bilinearly with attention gates on the skips."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        widths = (16, 32, 48)
        self.gated = gated
        self.down = nn.ModuleList(conv(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(self._up(b, a) for a, b in ((16, 32), (32, 48)))
        self.gates = nn.ModuleList(Gate(a, a, 8) for a in widths[:2]) if gated else None
        self.merge = nn.ModuleList(conv(2 * a, a) for a in widths[:2])
        self.leave = nn.Conv2d(16, 4, 1)

    def _up(self, inputs: int, outputs: int) -> nn.Module:
        if self.gated:
            return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(inputs, outputs, 1))
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for i in reversed(range(len(skips))):
            x = self.up[i](x)
            skip = self.gates[i](x, skips[i]) if self.gates is not None else skips[i]
            x = self.merge[i](torch.cat((skip, x), dim=1))
        return self.leave(x)


class Gate(nn.Module):
    """Additive attention of Attention U-Net: one number for every position of a skip."""

    def __init__(self, signal: int, skip: int, hidden: int) -> None:
        super().__init__()
        self.signal = nn.Sequential(nn.Conv2d(signal, hidden, 1), nn.BatchNorm2d(hidden))
        self.skip = nn.Sequential(nn.Conv2d(skip, hidden, 1), nn.BatchNorm2d(hidden))
        self.score = nn.Sequential(nn.Conv2d(hidden, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, signal: Tensor, skip: Tensor) -> Tensor:
        return skip * self.score(F.relu(self.signal(signal) + self.skip(skip)))


class DenseBlock(nn.Module):
    """Every layer reads all that came before, from a growing list."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i in range(layers):
            inputs = channels + i * growth
            self.layers.append(
                nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, growth, 3, padding=1))
            )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class C2f(nn.Module):
    """The block of the YOLO family: chunk, a chain of bottlenecks of which all stages are kept, cat."""

    def __init__(self, inputs: int, outputs: int, n: int = 2) -> None:
        super().__init__()
        self.c = outputs // 2
        self.cv1 = conv(inputs, 2 * self.c, 1)
        self.cv2 = conv((2 + n) * self.c, outputs, 1)
        self.m = nn.ModuleList(nn.Sequential(conv(self.c, self.c), conv(self.c, self.c)) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) + y[-1] for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C3(nn.Module):
    """Cross-stage partial block: two 1x1 branches, one of them with bottlenecks."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = outputs // 2
        self.cv1, self.cv2 = conv(inputs, hidden, 1), conv(inputs, hidden, 1)
        self.m = nn.Sequential(conv(hidden, hidden, 1), conv(hidden, hidden, 3))
        self.cv3 = conv(2 * hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Sppf(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = conv(channels, channels // 2, 1)
        self.cv2 = conv(channels * 2, channels, 1)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Dfl(nn.Module):
    """The expectation of a distribution over bins, as a convolution with the bins' numbers as its weight."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)
        self.c1 = bins

    def forward(self, x: Tensor) -> Tensor:
        b, _, a = x.shape
        return self.conv(x.view(b, 4, self.c1, a).transpose(2, 1).softmax(1)).view(b, 4, a)


class Detector(nn.Module):
    """A small detector of that family, with a two-branch head on two scales and decoded boxes."""

    def __init__(self, bins: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.nc, self.reg_max = classes, bins
        self.no = classes + bins * 4
        self.stem = nn.Sequential(conv(3, 16, stride=2), C3(16, 24))
        self.deep = nn.Sequential(conv(24, 32, stride=2), C2f(32, 32), Sppf(32))
        self.up = nn.Upsample(scale_factor=2)
        self.merge = C2f(56, 24)
        self.cv2 = nn.ModuleList(nn.Sequential(conv(c, 24), nn.Conv2d(24, 4 * bins, 1)) for c in (24, 32))
        self.cv3 = nn.ModuleList(nn.Sequential(conv(c, 24), nn.Conv2d(24, classes, 1)) for c in (24, 32))
        self.dfl = Dfl(bins)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shallow = self.stem(x)
        deep = self.deep(shallow)
        shallow = self.merge(torch.cat((self.up(deep), shallow), 1))
        maps = [torch.cat((self.cv2[i](f), self.cv3[i](f)), 1) for i, f in enumerate((shallow, deep))]
        joined = torch.cat([m.view(x.shape[0], self.no, -1) for m in maps], 2)
        box, scores = joined.split((self.reg_max * 4, self.nc), 1)
        return self.dfl(box), scores.sigmoid()


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        gate = self.fc2(F.relu(self.fc1(x.mean((2, 3))))).sigmoid()
        return x * gate.view(b, c, 1, 1)


class Cbam(nn.Module):
    """Attention over channels from averages and maxima, then over space from those over channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.space = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        average, peak = F.adaptive_avg_pool2d(x, 1).flatten(1), F.adaptive_max_pool2d(x, 1).flatten(1)
        x = x * (self.mlp(average) + self.mlp(peak)).sigmoid()[:, :, None, None]
        over = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * self.space(over).sigmoid()


class SelectiveKernel(nn.Module):
    """Branches of several kernel sizes, weighted channel by channel by a softmax over the branches."""

    def __init__(self, channels: int, branches: int = 2, hidden: int = 16) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv(channels, channels, 3 + 2 * i) for i in range(branches))
        self.squeeze = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU())
        self.select = nn.ModuleList(nn.Linear(hidden, channels) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        features = torch.stack([branch(x) for branch in self.branches], dim=1)
        code = self.squeeze(features.sum(1).mean((-1, -2)))
        weights = torch.stack([fc(code) for fc in self.select], dim=1).softmax(dim=1)
        return (features * weights[..., None, None]).sum(1)


class Aspp(nn.Module):
    """Dilated branches and an image-wide one side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(inputs, outputs, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1), nn.ReLU())
        self.project = conv(4 * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.interpolate(self.image(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(c(x) for c in self.convs), wide], dim=1))


class Backbone(nn.Module):
    """Three scales."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 32)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(conv(a, b, stride=2) for a, b in zip((3, *widths), widths, strict=False))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Fpn(nn.Module):
    """A feature pyramid with a head that all levels share."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (16, 24, 32))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.tower = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU())
        self.scores = nn.Conv2d(width, 6, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [lateral(f) for lateral, f in zip(self.lateral, self.backbone(x), strict=True)]
        for i in (1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], scale_factor=2, mode="nearest")
        return [self.scores(self.tower(s(m))) for s, m in zip(self.smooth, maps, strict=True)]


class BiFpn(nn.Module):
    """Both ways through the pyramid, with learned non-negative weights that add up to one."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (16, 24, 32))
        self.top_down = nn.ModuleList(self._separable(width) for _ in range(2))
        self.bottom_up = nn.ModuleList(self._separable(width) for _ in range(2))
        self.w1 = nn.Parameter(torch.rand(2, 2))
        self.w2 = nn.Parameter(torch.rand(2, 3))
        self.head = Head(width)

    @staticmethod
    def _separable(width: int) -> nn.Sequential:
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        return nn.Sequential(depthwise, nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        p = [lateral(f) for lateral, f in zip(self.lateral, self.backbone(x), strict=True)]
        w1 = F.relu(self.w1) / (F.relu(self.w1).sum(dim=0) + 1e-4)
        w2 = F.relu(self.w2) / (F.relu(self.w2).sum(dim=0) + 1e-4)
        mid = self.top_down[0](w1[0, 0] * p[1] + w1[1, 0] * F.interpolate(p[2], scale_factor=2))
        low = self.top_down[1](w1[0, 1] * p[0] + w1[1, 1] * F.interpolate(mid, scale_factor=2))
        mid = self.bottom_up[0](w2[0, 0] * p[1] + w2[1, 0] * mid + w2[0, 1] * F.max_pool2d(low, 2))
        top = self.bottom_up[1](w2[1, 1] * p[2] + w2[0, 2] * F.max_pool2d(mid, 2))
        return self.head(top)


class Involution(nn.Module):
    """A kernel of its own for every position and group of channels, made from the input there."""

    def __init__(self, channels: int = 32, kernel: int = 3, groups: int = 4) -> None:
        super().__init__()
        self.kernel_size, self.groups = kernel, groups
        self.group_channels = channels // groups
        self.reduce = conv(channels, channels // 2, 1)
        self.span = nn.Conv2d(channels // 2, kernel**2 * groups, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weight = self.span(self.reduce(x)).view(b, self.groups, self.kernel_size**2, h, w).unsqueeze(2)
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)
        patches = patches.view(b, self.groups, self.group_channels, self.kernel_size**2, h, w)
        return (weight * patches).sum(dim=3).view(b, c, h, w)


class Shift(nn.Module):
    """Quarters of the channels are rolled one way each; 1x1 convolutions do the rest."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.expand, self.reduce = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.norm(self.expand(x)).chunk(4, dim=1)
        ways = ((1, 2), (-1, 2), (1, 3), (-1, 3))
        rolled = torch.cat([torch.roll(p, s, d) for p, (s, d) in zip(parts, ways, strict=True)], 1)
        return x + self.reduce(F.relu(rolled))


class AcMix(nn.Module):
    """Convolution and attention from the same projections, concatenated."""

    def __init__(self, channels: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = channels // heads
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.local = nn.Conv2d(3 * channels, channels, 3, padding=1)
        self.out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        local = self.local(torch.cat((q, k, v), 1))
        q, k, v = (t.view(b, self.heads, self.head_dim, h * w) for t in (q, k, v))
        scores = (q.transpose(2, 3) @ k * self.head_dim**-0.5).softmax(-1)
        wide = (v @ scores.transpose(2, 3)).reshape(b, self.heads * self.head_dim, h, w)
        return x + self.out(torch.cat((local, wide), 1))


class Capsules(nn.Module):
    """Dynamic routing from convolutional capsules to class capsules."""

    def __init__(self, classes: int = 5, width: int = 8, out_width: int = 12) -> None:
        super().__init__()
        self.capsule_dim = width
        self.classes = classes
        self.enter = conv(3, 32, stride=2)
        self.primary = nn.Conv2d(32, 4 * width, 3, stride=2)
        self.weight = nn.Parameter(torch.randn(classes, 4 * 9, out_width, width) * 0.1)
        self.decode = nn.Sequential(nn.Linear(classes * out_width, 32), nn.ReLU(), nn.Linear(32, 6))

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        square = (x**2).sum(-1, keepdim=True)
        return square / (1 + square) * x / (square + 1e-8).sqrt()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.primary(self.enter(x))
        x = self.squash(x.view(x.shape[0], -1, self.capsule_dim))
        votes = (self.weight @ x[:, None, :, :, None]).squeeze(-1)
        logits = x.new_zeros(x.shape[0], self.classes, x.shape[1])
        for _ in range(2):
            routed = self.squash((logits.softmax(1)[..., None] * votes).sum(2))
            logits = logits + (votes * routed[:, :, None]).sum(-1)
        return routed.norm(dim=-1), self.decode(routed.flatten(1))


class Vae(nn.Module):
    """An autoencoder with a sampled code between."""

    def __init__(self, latent: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 24, stride=2), conv(24, 32, stride=2), nn.Flatten())
        self.mean, self.variance = nn.Linear(32 * 16, latent), nn.Linear(32 * 16, latent)
        self.enter = nn.Linear(latent, 32 * 16)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 24, 4, 2, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.ConvTranspose2d(24, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        mean, variance = self.mean(code), self.variance(code)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * variance) if self.training else mean
        return self.decoder(self.enter(z).view(x.shape[0], -1, 4, 4))


class Film(nn.Module):
    """A condition scales and shifts channels."""

    def __init__(self, channels: int = 32, condition: int = 8) -> None:
        super().__init__()
        self.enter = conv(3, channels)
        self.modulate = nn.Sequential(nn.Linear(condition, 16), nn.ReLU(), nn.Linear(16, 2 * channels))
        self.body = conv(channels, channels)
        self.head = Head(channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.body(self.enter(x))
        gamma, beta = self.modulate(condition).chunk(2, dim=1)
        return self.head(F.relu((1 + gamma[:, :, None, None]) * x + beta[:, :, None, None]))


class StyledConv(nn.Module):
    """Modulated convolution: a style scales the weight, all samples run as groups of one convolution."""

    def __init__(self, inputs: int, outputs: int, style: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3) / (3 * math.sqrt(inputs)))
        self.affine = nn.Linear(style, inputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        b, _, h, w = x.shape
        weight = self.weight * self.affine(style).view(b, 1, -1, 1, 1)
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        out = F.conv2d(x.reshape(1, -1, h, w), weight.flatten(0, 1), padding=1, groups=b)
        return out.view(b, -1, h, w)


class Styled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = conv(3, 16)
        self.style = nn.Sequential(nn.Linear(8, 24), nn.LeakyReLU(0.2), nn.Linear(24, 24))
        self.first, self.second = StyledConv(16, 24, 24), StyledConv(24, 16, 24)
        self.leave = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        style = self.style(z)
        x = F.leaky_relu(self.first(self.enter(x), style), 0.2)
        return self.leave(F.leaky_relu(self.second(x, style), 0.2))


class AdaIn(nn.Module):
    """Instance statistics of one image are given to another."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 16), conv(16, channels))
        self.decoder = nn.Sequential(conv(channels, 16), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        content, style = self.encoder(content), self.encoder(style)
        mean, std = style.mean((2, 3), keepdim=True), style.std((2, 3), keepdim=True) + 1e-5
        own, deviation = content.mean((2, 3), keepdim=True), content.std((2, 3), keepdim=True) + 1e-5
        return self.decoder((content - own) / deviation * std + mean)


def network(*layers: nn.Module, channels: int = 32) -> nn.Sequential:
    """``layers`` between a first convolution and a classifier."""
    return nn.Sequential(conv(3, channels), *layers, Head(channels))
