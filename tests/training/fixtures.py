"""Fixtures of small rendered data and tiny pretrained encoders, made once per session."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lavie.data.prepare.synthetic import demo_set


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the datasets train/, of 24 clips and 12 images, and validation/."""
    folder = tmp_path_factory.mktemp("rendered")
    demo_set(folder, clips=24, images=12, size=32)
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, make_vae: Callable[[float], Any]) -> Path:
    """A folder like Stable Diffusion's: tiny random autoencoder and text model, a tokenizer of single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("pretrained")
    make_vae(0.5).save_pretrained(folder / "vae")
    letters = [chr(c) for c in range(33, 127)]

    # Each letter is a token, inside a word and at its end.
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    CLIPTextModel(CLIPTextConfig(**sizes, **ids)).save_pretrained(folder / "text_encoder")
    return folder
