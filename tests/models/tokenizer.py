"""A small tokenizer of CLIP's kind."""

import json
from pathlib import Path

END = "<|endoftext|>"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "at</w>", "cat</w>", "<|startoftext|>", END]
"""Its tokens: letters, "at" and "cat"; the start and the end come last. Any other word is a token for each letter."""


def save_tokenizer(folder: Path) -> Path:
    """Write the tokenizer's files into a new folder, as tokenizer/ of Stable Diffusion has them; return the folder."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\nc at</w>\n")
    special = dict(bos_token="<|startoftext|>", eos_token=END, unk_token=END, pad_token=END)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    return folder
