"""NEPA pretraining in plain PyTorch, the reference of `benchmark.py --reference`.

The code is self-contained and idiomatic, with PyTorch's fused kernels: one q/k/v projection, fused attention,
`AdamW(fused=True)`, foreach clipping and averaging. tests/benchmarks/test_torch_reference.py compares it with
the numbers of the authors' implementation, so that the benchmark compares with a correct implementation.

B batch, T patches, N = 1 + T tokens, D width, H heads, K = D / H head width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

EPSILON = 1e-12  # epsilon of every norm


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model with a GELU MLP; the defaults are those of the official base model."""

    image_size: int = 224
    channels: int = 3
    patch_size: int = 14
    hidden_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    qk_norm_scale: bool = False
    layer_scale: float = 1e-5
    rope_rescale: float | None = 2.0


class Rotary(nn.Module):
    """Tables cos and sin for a square grid, a row of K values per token; CLS, the first, is not rotated."""

    def __init__(self, grid: int, head_dim: int, rescale: float | None):
        super().__init__()
        self.rescale = rescale
        centres = (torch.arange(grid) + 0.5) / grid * 2 - 1
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        frequencies = 100.0 ** (-torch.arange(0, head_dim, 4) / head_dim)
        angles = [2 * math.pi * c.reshape(-1, 1) * frequencies for c in (y, x)]  # (T, K/4) each
        angles = F.pad(torch.cat(angles * 2, dim=-1), (0, 0, 1, 0))  # (N, K)
        self.register_buffer("angles", angles, persistent=False)

    def forward(self):
        angles = self.angles
        if self.training and self.rescale:
            limit = math.log(self.rescale)
            angles = angles * torch.empty((), device=angles.device).uniform_(-limit, limit).exp()
        return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Rotate x (B, H, N, K) by the tables of `Rotary`."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Attention(nn.Module):
    """Causal attention with QK-norm and rotary positions."""

    def __init__(self, a: Architecture):
        super().__init__()
        head_dim = a.hidden_dim // a.num_heads
        self.num_heads = a.num_heads
        self.qkv = nn.Linear(a.hidden_dim, 3 * a.hidden_dim)
        norm = {"eps": EPSILON, "elementwise_affine": a.qk_norm_scale, "bias": False}
        self.q_norm, self.k_norm = nn.LayerNorm(head_dim, **norm), nn.LayerNorm(head_dim, **norm)
        self.out = nn.Linear(a.hidden_dim, a.hidden_dim)

    def forward(self, x, cos, sin):
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, H, K)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each with LayerNorm before and LayerScale after."""

    def __init__(self, a: Architecture):
        super().__init__()
        self.norm1 = nn.LayerNorm(a.hidden_dim, EPSILON)
        self.attention = Attention(a)
        self.scale1 = nn.Parameter(torch.full((a.hidden_dim,), float(a.layer_scale)))
        self.norm2 = nn.LayerNorm(a.hidden_dim, EPSILON)
        self.up = nn.Linear(a.hidden_dim, a.mlp_dim)
        self.down = nn.Linear(a.mlp_dim, a.hidden_dim)
        self.scale2 = nn.Parameter(torch.full((a.hidden_dim,), float(a.layer_scale)))

    def forward(self, x, cos, sin):
        x = x + self.scale1 * self.attention(self.norm1(x), cos, sin)
        return x + self.scale2 * self.down(F.gelu(self.up(self.norm2(x))))


class Nepa(nn.Module):
    """Model from images (B, channels, height, width) to embeddings and outputs, both (B, N, D)."""

    def __init__(self, a: Architecture):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, a.hidden_dim))
        self.patches = nn.Conv2d(a.channels, a.hidden_dim, a.patch_size, stride=a.patch_size)
        self.rotary = Rotary(
            a.image_size // a.patch_size, a.hidden_dim // a.num_heads, a.rope_rescale
        )
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.num_layers))
        self.norm = nn.LayerNorm(a.hidden_dim, EPSILON)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.zeros_(module.bias)

    def forward(self, images):
        patches = self.patches(images).flatten(2).transpose(1, 2)
        z = torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1)
        x, (cos, sin) = z, self.rotary()
        for block in self.blocks:
            x = block(x, cos, sin)
        return z, self.norm(x)


def nepa_loss(z, h):
    """Loss of NEPA: - mean cos(h_t, stop_gradient(z_{t+1})), in float32."""
    prediction = F.normalize(h[:, :-1].float(), dim=-1, eps=1e-12)
    target = F.normalize(z[:, 1:].detach().float(), dim=-1, eps=1e-12)
    return -(prediction * target).sum(-1).mean()


class Trainer:
    """Training with AdamW: decay groups, clipping, warm-up, cosine schedule, averaged weights."""

    def __init__(
        self,
        model: Nepa,
        peak_learning_rate: float,
        total_steps: int,
        warmup_steps: int,
        ema_decay: float = 0.9999,
        bfloat16: bool = False,
    ):
        self.model = model.train()
        self.parameters = list(model.parameters())
        self.ema_decay = ema_decay
        self.bfloat16 = bfloat16
        self.averages = None
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=peak_learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True
        )

        def factor(step):
            if step < warmup_steps:
                return step / warmup_steps
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return 0.5 * (1.0 + math.cos(math.pi * progress))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def step(self, images):
        """Make one update; return the loss and the gradient norm before clipping, as tensors."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            z, h = self.model(images)
        loss = nepa_loss(z, h)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            if self.averages is None:  # the average starts as a copy after the first step
                self.averages = [p.clone() for p in self.parameters]
            else:
                torch._foreach_lerp_(self.averages, self.parameters, 1.0 - self.ema_decay)
        return loss.detach(), norm

    @torch.inference_mode()
    def features(self, images):
        """Mean of the patch tokens of the output, (B, D)."""
        self.model.eval()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            _, h = self.model(images)
        return h[:, 1:].mean(dim=1)
