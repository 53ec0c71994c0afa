"""Aero's parts: a U-Net over frequency with attention, recurrence and dilated convolutions over time.

Spectra are (B, C, F, T). Names and shapes of the parameters are those of the published checkpoints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 4
REDUCED = 5  # channels of the attention over frequencies
EMBEDDING_SCALE = 10.0  # acts as a factor of the embedding's learning rate
COMPRESSION = 4  # channels of a residual branch: a quarter
WIDTH, STRIDE = 200, 100  # length and distance of a recurrent layer's windows, in steps
HEADS = DECAYS = 4
ON_ITSELF = -100.0  # a step's score on itself before the softmax, so that it is practically never chosen


class AeroEncoder(nn.Module):
    """(B, C_in, F, T) -> (B, C, F / stride, T)."""

    def __init__(
        self, in_channels: int, channels: int, *, freqs: int, stride: int, kernel: int, first: bool, deep: bool
    ) -> None:
        super().__init__()
        self.pre_conv = nn.Conv2d(in_channels, channels, 1) if first else nn.Identity()
        width = channels if first else in_channels
        self.freq_attn_block = FrequencyAttention(freqs, width)
        self.conv = nn.Conv2d(width, channels, (kernel, 1), (stride, 1), padding=((kernel - stride) // 2, 0))
        self.norm1 = _norm(channels, deep=deep)
        self.dconv = ResidualBranches(channels, freqs=freqs // stride, deep=deep)
        self.rewrite = nn.Conv2d(channels, 2 * channels, 1)
        self.norm2 = _norm(2 * channels, deep=deep)

    def forward(self, x: Tensor) -> Tensor:
        x = self.freq_attn_block(self.pre_conv(x))
        x = self.dconv(F.gelu(self.norm1(self.conv(x))))
        return F.glu(self.norm2(self.rewrite(x)), dim=1)


class AeroDecoder(nn.Module):
    """x and skip, (B, C, F, T) each -> (B, C_out, F * stride, T)."""

    def __init__(self, channels: int, out_channels: int, *, stride: int, kernel: int, last: bool, deep: bool) -> None:
        super().__init__()
        self.crop = (kernel - stride) // 2
        self.last = last
        self.rewrite = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)
        self.norm1 = _norm(4 * channels, deep=deep)
        self.conv_tr = nn.ConvTranspose2d(2 * channels, out_channels, (kernel, 1), (stride, 1))
        self.norm2 = _norm(out_channels, deep=deep)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.glu(self.norm1(self.rewrite(torch.cat([x, skip], dim=1))), dim=1)
        x = self.norm2(self.conv_tr(x))  # normalised before it is cropped
        x = x[:, :, self.crop : x.shape[2] - self.crop]
        return x if self.last else F.gelu(x)


class FrequencyAttention(nn.Module):
    """Weights every step by all its frequencies, then mixes frequencies; (B, C, F, T) -> the same shape.

    Phasen's "frequency transformation block" (Yin et al. 2020).
    """

    def __init__(self, freqs: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, REDUCED, 1), nn.BatchNorm2d(REDUCED), nn.ReLU())
        self.conv1d = nn.Sequential(
            nn.Conv1d(REDUCED * freqs, channels, 9, padding=4), nn.BatchNorm1d(channels), nn.ReLU()
        )
        self.freq_fc = nn.Linear(freqs, freqs, bias=False)
        self.conv2 = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        attention = self.conv1d(self.conv1(x).flatten(1, 2))  # (B, 5, F, T) -> (B, 5 F, T) -> (B, C, T)
        attended = x * attention[:, :, None]
        mixed = self.freq_fc(attended.transpose(2, 3)).transpose(2, 3)  # (B, C, F, T) -> (B, C, T, F) and back
        return self.conv2(torch.cat([mixed, x], dim=1))


class ResidualBranches(nn.Module):
    """Two branches over time, dilated by 1 and 2, the same for every frequency; (B, C, F, T) -> the same shape."""

    def __init__(self, channels: int, *, freqs: int, deep: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ResidualBranch(channels, freqs=freqs, dilation=dilation, deep=deep) for dilation in (1, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        x = x.transpose(1, 2).flatten(0, 1)  # (B, C, F, T) -> (B F, C, T)
        for layer in self.layers:
            x = x + layer(x)
        return x.unflatten(0, (batch, -1)).transpose(1, 2)


class ResidualBranch(nn.Module):
    """(B F, C, T) -> what is added to it. `deep` ones have a recurrent layer and attention."""

    def __init__(self, channels: int, *, freqs: int, dilation: int, deep: bool) -> None:
        super().__init__()
        hidden = channels // COMPRESSION
        self.conv1 = nn.Sequential(
            nn.Conv1d(channels, hidden, 3, dilation=dilation, padding=dilation), nn.GroupNorm(1, hidden)
        )
        self.act = Snake(freqs)
        self.lstm = Recurrent(hidden) if deep else nn.Identity()
        self.time_attn = LocalAttention(hidden) if deep else nn.Identity()
        self.conv2 = nn.Sequential(
            nn.Conv1d(hidden, 2 * channels, 1), nn.GroupNorm(1, 2 * channels), nn.GLU(1), LayerScale(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.time_attn(self.lstm(self.act(self.conv1(x)))))


class Snake(nn.Module):
    """x + sin(ax)^2 / a (Liu et al. 2020), with an `a` for each frequency; (B F, C, T)."""

    def __init__(self, freqs: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(freqs).exponential_(0.1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a[:, None, None]
        x = x.unflatten(0, (-1, len(a)))  # (B F, C, T) -> (B, F, C, T)
        return (x + torch.sin(a * x).square() / a).flatten(0, 1)


class Recurrent(nn.Module):
    """A bidirectional LSTM of two layers with a residual; (B, C, T) -> the same shape.

    More than 200 steps are taken in windows of 200 that overlap by half; the outer quarters are dropped.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers=2, bidirectional=True)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, num_steps = x.shape
        if num_steps <= WIDTH:
            return x + self._run(x)
        num_windows, edge = -(-num_steps // STRIDE), (WIDTH - STRIDE) // 2
        padded = F.pad(x, (0, (num_windows - 1) * STRIDE + WIDTH - num_steps))
        windows = padded.unfold(2, WIDTH, STRIDE).transpose(1, 2)  # (B, C, N, W) -> (B, N, C, W)
        outputs = self._run(windows.flatten(0, 1)).unflatten(0, (batch, num_windows))
        inner = outputs[..., edge : WIDTH - edge].transpose(1, 2).flatten(2)  # (B, N, C, S) -> (B, C, N S)
        return x + torch.cat([outputs[:, 0, :, :edge], inner], dim=2)[..., :num_steps]

    def _run(self, x: Tensor) -> Tensor:
        return self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)  # (B, C, T) -> (T, B, C) and back


class LocalAttention(nn.Module):
    """Attention over time without positions; scores fall with distance at a rate set by the query (Demucs v3).

    (B, C, T) -> the same shape. It takes a few times B * 4 * T^2 values of memory.
    """

    decays: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.content = nn.Conv1d(channels, channels, 1)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        self.query_decay = nn.Conv1d(channels, HEADS * DECAYS, 1)
        self.proj = nn.Conv1d(channels, channels, 1)
        self.register_buffer("decays", torch.arange(1.0, DECAYS + 1) / math.sqrt(DECAYS), persistent=False)
        assert self.query_decay.bias is not None
        with torch.no_grad():  # slow decay at first, so that it sees far
            self.query_decay.weight.mul_(0.01)
            self.query_decay.bias.fill_(-2.0)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, content = (
            projection(x).unflatten(1, (HEADS, -1)) for projection in (self.query, self.key, self.content)
        )
        rates = torch.sigmoid(self.query_decay(x).unflatten(1, (HEADS, -1))) / 2  # (B, H, decays, T)
        slopes = torch.einsum("bhds,d->bhs", rates, self.decays.to(rates.dtype))
        steps = torch.arange(x.shape[-1], device=x.device)
        distances = (steps[:, None] - steps).abs().to(slopes.dtype)
        # Rows t are keys, columns s queries.
        scores = torch.einsum("bhct,bhcs->bhts", keys, queries) / math.sqrt(keys.shape[2])
        scores = torch.addcmul(scores, distances, slopes[:, :, None], value=-1)
        scores = scores.masked_fill(distances == 0, ON_ITSELF)
        result = torch.einsum("bhts,bhct->bhcs", torch.softmax(scores, dim=2), content)
        return x + self.proj(result.flatten(1, 2))


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale[:, None] * x


class FrequencyEmbedding(nn.Module):
    """(F, C) added to a spectrum, so that convolutions over frequency can depend on it. Starts smooth."""

    def __init__(self, freqs: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(freqs, channels)
        with torch.no_grad():
            weight = self.embedding.weight
            weight.copy_(weight.cumsum(dim=0) / torch.arange(1.0, freqs + 1).sqrt()[:, None] / EMBEDDING_SCALE)

    def forward(self) -> Tensor:
        return self.embedding.weight * EMBEDDING_SCALE


def _norm(channels: int, *, deep: bool) -> nn.Module:
    return nn.GroupNorm(NORM_GROUPS, channels) if deep else nn.Identity()
