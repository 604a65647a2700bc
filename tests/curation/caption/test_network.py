"""Captions by a network on the disk, against its own arithmetic; by vLLM, against what it is asked; both offline."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavie.config.curate_caption import PROMPT, CaptionConfig
from lavie.curation.caption.base import Asked
from lavie.curation.caption.choice import open_captioner
from lavie.curation.caption.network import NetworkCaptioner
from lavie.errors import ConfigError
from tests.curation.caption.tiny_llava import write_llava

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Let nothing connect to anywhere."""

    def connect(self, address):
        raise AssertionError(f"a captioner connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    """Return the folder of a tiny LLaVA."""
    folder = tmp_path_factory.mktemp("network") / "tiny-llava"
    write_llava(folder)
    return folder


def clips(count: int, frames: int = 3) -> list[Asked]:
    noise = np.random.default_rng(0).integers(0, 256, (count, frames, 6, 8, 3), np.uint8)
    return [Asked({}, one.repeat(8, 1).repeat(8, 2)) for one in noise]


def likeliest(folder: Path, pictures: np.ndarray, text: str, tokens: int) -> str:
    """Return the likeliest words one after the other, without `generate` and without a batch."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(text=[text], images=[list(pictures)], return_tensors="pt")
    ids, start = inputs["input_ids"], inputs["input_ids"].shape[1]
    with torch.no_grad():
        for _ in range(tokens):
            found = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, -1].argmax()
            if found == processor.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, found.reshape(1, 1)], dim=1)
    return processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_it_says_the_likeliest_words_of_each_clip(llava):
    model = NetworkCaptioner(llava, CaptionConfig(max_tokens=6, prompt="word1 word2"))
    assert sum(value.numel() for value in model._model.parameters()) < 80_000
    asked = clips(3)
    found = model(asked)
    expected = [likeliest(llava, one.pictures, "user <image><image><image> word1 word2 word7", 6) for one in asked]
    assert found == expected and len(set(found)) == 3 and model.name == "transformers:tiny-llava"
    assert NetworkCaptioner(llava, CaptionConfig(max_tokens=6, prompt="word3"))(asked) != found
    assert NetworkCaptioner(llava, CaptionConfig(max_tokens=2, prompt="word1 word2"))(asked) == [
        " ".join(text.split()[:2]) for text in found
    ]


def test_without_a_template_pictures_come_first(tmp_path):
    write_llava(tmp_path, template=None)
    [asked] = clips(1, frames=2)
    found = NetworkCaptioner(tmp_path, CaptionConfig(max_tokens=4, prompt="word5 word6"))([asked])
    assert found == [likeliest(tmp_path, asked.pictures, "<image><image>\nword5 word6\n", 4)]


def test_what_vllm_is_asked(tmp_path, monkeypatch):
    asked = []

    class Served:
        def __init__(self, **options):
            asked.append(options)

        def chat(self, said, sampling, use_tqdm):
            asked.append((said, sampling))
            return [SimpleNamespace(outputs=[SimpleNamespace(text=f"clip {i}")]) for i in range(len(said))]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Served, SamplingParams=lambda **options: options))
    captioner = open_captioner(CaptionConfig(captioner=f"vllm:{tmp_path}", frames=3), tmp_path)
    assert captioner(clips(2)) == ["clip 0", "clip 1"]
    options, (said, sampling) = asked
    assert options == {"model": str(tmp_path), "limit_mm_per_prompt": {"image": 3}, "seed": 0}
    assert sampling == {"temperature": 0.0, "max_tokens": 48}
    for one, conversation in zip(clips(2), said, strict=True):
        [message] = conversation
        *pictures, text = message["content"]
        assert message["role"] == "user" and text == {"type": "text", "text": PROMPT}
        assert [picture["type"] for picture in pictures] == ["image_pil"] * 3
        np.testing.assert_array_equal([np.asarray(picture["image_pil"]) for picture in pictures], one.pictures)

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="needs vLLM, which no extra of lavie has"):
        open_captioner(CaptionConfig(captioner=f"vllm:{tmp_path}", frames=4), tmp_path)
