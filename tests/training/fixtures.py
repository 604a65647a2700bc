"""A small rendered dataset, and tiny pretrained encoders, once per session."""

import json
from pathlib import Path

import pytest

from lavie.data.prepare.synthetic import demo_set


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ (24 clips, 12 images) and validation/."""
    folder = tmp_path_factory.mktemp("rendered")
    demo_set(folder, clips=24, images=12, size=32)
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, make_vae):
    """A folder like Stable Diffusion's: tiny random autoencoder and text model, a tokenizer of single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("pretrained")
    make_vae(0.5).save_pretrained(folder / "vae")
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ids = dict(vocab_size=len(words), bos_token_id=len(words) - 2, eos_token_id=len(words) - 1)
    CLIPTextModel(CLIPTextConfig(**sizes, **ids)).save_pretrained(folder / "text_encoder")
    return folder
