"""A CLIP of random weights and a tokenizer of single letters: as a folder of transformers, and in OpenAI's layout."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

LETTERS = [chr(c) for c in range(33, 127)]
WORDS = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
END = len(WORDS) - 1
SIDE, PATCH, WIDTH, TEXT_WIDTH, OUT, CONTEXT = 32, 8, 128, 64, 24, 16


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer: each letter is a token, inside a word and at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def write_clip(folder: Path, seed: int = 0) -> None:
    """Write a CLIP folder of transformers, with its tokenizer. Its weights are large enough that clips differ."""
    from transformers import CLIPConfig, CLIPModel

    side = dict(num_hidden_layers=2, projection_dim=OUT)
    text = dict(hidden_size=TEXT_WIDTH, intermediate_size=96, num_attention_heads=4, max_position_embeddings=CONTEXT)
    ids = dict(vocab_size=len(WORDS), bos_token_id=END - 1, eos_token_id=END)
    vision = dict(hidden_size=WIDTH, intermediate_size=160, num_attention_heads=2, image_size=SIDE, patch_size=PATCH)
    model = CLIPModel(CLIPConfig(projection_dim=OUT, text_config=side | text | ids, vision_config=side | vision))
    fill(model, seed)
    model.save_pretrained(folder)
    write_tokenizer(folder)


def fill(model: nn.Module, seed: int) -> None:
    """Give every weight but the scale of the logits a random value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name != "logit_scale":
                value.normal_(0, 0.15, generator=generator).add_(float(".ln_" in name or "norm" in name))


def write_clips(folder: Path, count: int = 5, frames: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Write clips as folders of PNG frames, clip0, clip1, ..., of 50 x 37 pixels, and return their frames."""
    made = {}
    for n in range(count):
        name = f"clip{n}"
        (folder / name).mkdir(parents=True)
        coarse = np.random.default_rng([seed, n]).integers(0, 256, (frames, 5, 6, 3), np.uint8)
        made[name] = np.stack([np.asarray(Image.fromarray(frame).resize((50, 37))) for frame in coarse])
        for i, frame in enumerate(made[name]):
            Image.fromarray(frame).save(folder / name / f"{i}.png")
    return made


class _Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    """A block of a transformer, with OpenAI's names."""

    def __init__(self, width: int, causal: bool):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", _Gelu())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1) if self.causal else None
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=hidden)[0]
        return x + self.mlp(self.ln_2(x))


class _Blocks(nn.Module):
    def __init__(self, width: int, causal: bool):
        super().__init__()
        self.resblocks = nn.Sequential(_Block(width, causal), _Block(width, causal))


class _Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.proj = nn.Parameter(torch.zeros(WIDTH, OUT))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = _Blocks(WIDTH, causal=False)


class OpenAIClip(nn.Module):
    """A CLIP whose state dict has the names of OpenAI's files, with its own way from pixels and tokens on."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(CONTEXT, TEXT_WIDTH))
        self.text_projection = nn.Parameter(torch.zeros(TEXT_WIDTH, OUT))
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        for name, value in (("input_resolution", SIDE), ("context_length", CONTEXT), ("vocab_size", len(WORDS))):
            self.register_buffer(name, torch.tensor(value))
        self.visual = _Vision()
        self.transformer = _Blocks(TEXT_WIDTH, causal=True)
        self.token_embedding = nn.Embedding(len(WORDS), TEXT_WIDTH)
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        fill(self, seed)

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of pixels (N, 3, SIDE, SIDE) and of tokens (n, L), whose end is the highest."""
        v = self.visual
        x = v.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1) + v.positional_embedding
        x = v.ln_post(v.transformer.resblocks(v.ln_pre(x))[:, 0]) @ v.proj
        y = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        y = self.ln_final(self.transformer.resblocks(y))
        return x, y[torch.arange(len(y)), tokens.argmax(dim=1)] @ self.text_projection
