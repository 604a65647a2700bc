"""LoRA on the spatial layers: files of other programs in and out, merging, and adapters that train.

`load_lora` and `merge_lora` use a file; `add_lora` attaches adapters for training (adapter.py), and `write_lora` writes
them for others.
"""

from .adapter import add_lora
from .attach import LoraReport, load_lora, load_text_lora, merge_lora, remove_lora
from .read import LoraFile, read_lora
from .write import lora_of, write_lora

__all__ = [
    "LoraFile",
    "LoraReport",
    "add_lora",
    "load_lora",
    "load_text_lora",
    "lora_of",
    "merge_lora",
    "read_lora",
    "remove_lora",
    "write_lora",
]
