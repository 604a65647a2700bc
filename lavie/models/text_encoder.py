"""Text encoders, from captions to features (n, L, D): CLIP's text model, or a fixed vector per word."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..caption_limit import MARKS, CaptionLimit, clip_words
from ..carry import carry
from ..config.model import TextEncoderConfig
from ..errors import CheckpointError, ConfigError
from ..seeds import torch_generator

Token = int | str | Tensor
"""What a text encoder reads one after the other: a number of CLIP's vocabulary or a word, or a vector (channels,) that
was learnt."""
WORD = re.compile(r"\w+")
"""A word of `HashTextEncoder`."""


class HashTextEncoder(nn.Module):
    """A text encoder without weights: each word is a fixed random vector plus a sinusoid of its place.

    The vector is drawn from a seed made of the word's letters. Captions longer than `max_length` words are cut.
    """

    place: Tensor

    def __init__(self, channels: int, max_length: int):
        super().__init__()
        self.channels, self.max_length = channels, max_length
        rate = torch.exp(-math.log(10000.0) * torch.arange(0, channels, 2) / channels)
        angle = torch.arange(max_length)[:, None] * rate
        place = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :channels]
        self.register_buffer("place", place, persistent=False)
        self.words: dict[str, Tensor] = {}
        self.learnt: dict[str, Tensor] = {}

    def forward(self, captions: list[str]) -> Tensor:
        """Return the features of n captions, (n, max_length, channels) float32, zero past the last word."""
        if not captions:
            return self.place.new_zeros(0, self.max_length, self.channels)
        return torch.stack([self.encode_tokens(self.split(caption)[: self.room]) for caption in captions])

    @property
    def room(self) -> int:
        """Words that are read, without the start."""
        return self.max_length - 1

    def split(self, text: str) -> list[str]:
        """Return the words of a text."""
        return WORD.findall(text.lower())

    def require_layer(self, clip_skip: int) -> None:
        """Raise ConfigError unless the last layer is meant, for there are no others."""
        if clip_skip != 1:
            raise ConfigError(f"clip_skip: got {clip_skip}, and this text encoder has no layers: wanted 1")

    def encode_tokens(self, tokens: Sequence[Token], clip_skip: int = 1) -> Tensor:
        """Return the features (max_length, channels) of at most `room` words; see `ClipTextEncoder`."""
        self.require_layer(clip_skip)
        features = torch.zeros_like(self.place)
        vectors = [token if isinstance(token, Tensor) else self._vector(str(token)) for token in ("<start>", *tokens)]
        features[: len(vectors)] = carry(torch.stack(vectors), features.device) + 0.5 * self.place[: len(vectors)]
        return features

    def emphasise(self, features: Tensor, weights: Sequence[float]) -> Tensor:
        """Return features (max_length, channels) of words, each multiplied by its weight; the start has none."""
        return features * _by_place(features, weights)

    def is_comma(self, token: Token) -> bool:
        """Return whether a long prompt is best cut behind this word: commas are none of the words here."""
        return False

    def text_of(self, tokens: Sequence[Token]) -> str:
        """Return words as a text, without vectors."""
        return " ".join(token for token in tokens if isinstance(token, str))

    def unread(self, caption: str) -> str:
        """Return the words of a caption that are cut off; an empty text where all are read."""
        return " ".join(WORD.findall(caption)[self.max_length - 1 :])

    def _vector(self, word: str) -> Tensor:
        """Return the vector (channels,) of a word."""
        if word not in self.words:
            self.words[word] = torch.randn(self.channels, generator=torch_generator(0, f"word/{word}"))
        return self.words[word]


class ClipTextEncoder(nn.Module):
    """CLIP's text features as Stable Diffusion 1.4 has them: the last hidden state, 77 tokens, padding not masked."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int):
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.channels = model.config.hidden_size
        self.learnt: dict[str, Tensor] = {}

    @torch.no_grad()
    def forward(self, captions: list[str]) -> Tensor:
        """Return the features of n captions, (n, max_length, channels) float32; longer captions are cut."""
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        return self.model(carry(tokens.input_ids, self.model.device)).last_hidden_state.float()

    def unread(self, caption: str) -> str:
        """Return the words of a caption that are cut off; an empty text where all are read."""
        tokens = self.tokenizer(caption, add_special_tokens=False, verbose=False).input_ids
        return self.tokenizer.decode(tokens[self.room :]).strip()

    @property
    def room(self) -> int:
        """Tokens that are read, without the start and the end."""
        return self.max_length - MARKS

    def split(self, text: str) -> list[int]:
        """Return the tokens of a text, without start and end."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def require_layer(self, clip_skip: int) -> None:
        """Raise ConfigError unless there is a layer of this number, counted from the last."""
        layers = self.model.config.num_hidden_layers
        if not 1 <= clip_skip <= layers:
            raise ConfigError(f"clip_skip: got {clip_skip}, wanted 1 .. {layers}, the layers of the text encoder")

    @torch.no_grad()
    def encode_tokens(self, tokens: Sequence[Token], clip_skip: int = 1) -> Tensor:
        """Return the features (max_length, channels) float32 of at most `room` tokens between their start and end.

        Args:
            tokens: numbers of the vocabulary, or vectors (channels,) in place of their embeddings.
            clip_skip: which layer they are of, from the last: 1 is the last. CLIP's final norm follows in any case, as
                in AUTOMATIC1111's web UI.

        Raises:
            ConfigError: there is no such layer.
        """
        self.require_layer(clip_skip)
        start, end, fill = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        vectors = {place: token for place, token in enumerate(tokens, 1) if isinstance(token, Tensor)}
        numbers = [start, *(end if isinstance(token, Tensor) else token for token in tokens), end]
        numbers += [fill] * (self.max_length - len(numbers))
        with self._in_place(vectors):
            output = self.model(torch.tensor([numbers], device=self.model.device), output_hidden_states=clip_skip > 1)
        if clip_skip == 1:
            return output.last_hidden_state[0].float()
        inner = getattr(self.model, "text_model", self.model)  # as releases before 5.6 have it
        return inner.final_layer_norm(output.hidden_states[-clip_skip])[0].float()

    def emphasise(self, features: Tensor, weights: Sequence[float]) -> Tensor:
        """Return features (max_length, channels) of tokens multiplied by their weights; their mean stays as it was.

        So does AUTOMATIC1111's web UI: the network meets features of the size that it knows.
        """
        weighted = features * _by_place(features, weights)
        return weighted * (features.mean() / weighted.mean())

    def is_comma(self, token: Token) -> bool:
        """Return whether a long prompt is best cut behind this token."""
        return not isinstance(token, Tensor) and token in self.split(",")

    def text_of(self, tokens: Sequence[Token]) -> str:
        """Return tokens as a text, without vectors."""
        return self.tokenizer.decode([token for token in tokens if not isinstance(token, Tensor)]).strip()

    @contextmanager
    def _in_place(self, vectors: dict[int, Tensor]) -> Iterator[None]:
        """Put vectors in place of the embeddings of a single caption, by place, while the block runs."""

        def replaced(module: Any, given: Any, embedded: Tensor) -> Tensor:
            """Return the embeddings (1, max_length, channels) with the vectors among them."""
            embedded = embedded.clone()
            for place, vector in vectors.items():
                embedded[:, place] = vector.to(embedded)
            return embedded

        if not vectors:
            yield
            return
        hook = self.model.get_input_embeddings().register_forward_hook(replaced)
        try:
            yield
        finally:
            hook.remove()


def _by_place(features: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weights of tokens as a column for their features (L, D); the start and all behind them have 1."""
    column = features.new_ones(len(features), 1)
    column[1 : 1 + len(weights), 0] = features.new_tensor(weights)
    return column


def build_text_encoder(
    config: TextEncoderConfig, channels: int, pretrained: str | None
) -> HashTextEncoder | ClipTextEncoder:
    """Return the text encoder of a run, frozen.

    Args:
        config: the run's section `text_encoder`.
        channels: the cross_attention_dim of the network that reads the features.
        pretrained: the folder that holds text_encoder/ and tokenizer/, for type clip.

    Raises:
        CheckpointError: the folder lacks one of them, or they do not fit one another or the network.
    """
    if config.type == "hash":
        return HashTextEncoder(channels, config.max_length)
    assert pretrained is not None, "TrainConfig refuses clip without it"
    from transformers import CLIPTextModel

    try:
        tokenizer = read_tokenizer(pretrained, "tokenizer")
        model = CLIPTextModel.from_pretrained(
            pretrained, subfolder="text_encoder", local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"pretrained_model_name_or_path {pretrained}: no CLIP model in text_encoder/ and tokenizer/: {error}"
        ) from None
    if len(tokenizer) != model.config.vocab_size:  # transformers makes an empty tokenizer where it finds no files
        raise CheckpointError(
            f"pretrained_model_name_or_path {pretrained}: tokenizer/ knows {len(tokenizer)} tokens, text_encoder/ "
            f"{model.config.vocab_size}: wanted vocab.json and merges.txt, or tokenizer.json, of the same model"
        )
    encoder = ClipTextEncoder(model.requires_grad_(False).eval(), tokenizer, config.max_length)
    if encoder.channels != channels:
        raise CheckpointError(
            f"{pretrained}/text_encoder gives {encoder.channels} features, model.cross_attention_dim is {channels}: "
            "change one"
        )
    return encoder


def caption_limit(config: TextEncoderConfig, pretrained: str | None) -> CaptionLimit:
    """Return how much of a caption the text encoder of a run reads, without reading its weights.

    CLIP's limit is in tokens where the folder `pretrained` has a tokenizer/, and in words elsewhere.

    Raises:
        CheckpointError: tokenizer/ is there and cannot be read.
    """
    if config.type == "hash":
        most = config.max_length - 1
        rule = f"more than {most} words; the text encoder reads the first {most}"
        return CaptionLimit(most, "words", rule, lambda captions: [len(WORD.findall(text)) for text in captions])
    if pretrained is not None and (Path(pretrained) / "tokenizer").is_dir():
        return clip_limit(pretrained, config.max_length)
    return clip_words(config.max_length)


def clip_limit(folder: str | Path, max_length: int = 77) -> CaptionLimit:
    """Return CLIP's limit in tokens, by the tokenizer in a folder or in its subfolder tokenizer/.

    Raises:
        CheckpointError: there is none.
    """
    files = Path(folder, "tokenizer") if Path(folder, "tokenizer").is_dir() else Path(folder)
    wanted = "wanted CLIP's vocab.json and merges.txt, or tokenizer.json. Change --tokenizer or "
    wanted += "pretrained_model_name_or_path"
    # Where it finds no files, transformers makes an empty tokenizer, or asks the network for a model of this name.
    if not any((files / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise CheckpointError(f"{folder}: no tokenizer; {wanted}")
    try:
        tokenizer = read_tokenizer(str(files))
    except ValueError as error:
        raise CheckpointError(f"{folder}: no tokenizer that can be read: {error}; {wanted}") from None

    def lengths(captions: Sequence[str]) -> list[int]:
        """Return the number of tokens of each caption, without start and end."""
        if not captions:
            return []
        return [len(row) for row in tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids]

    most = max_length - MARKS
    return CaptionLimit(most, "tokens", f"more than {max_length} tokens; CLIP reads the first {most}", lengths)


def read_tokenizer(folder: str, subfolder: str = "") -> Any:
    """Return transformers' CLIP tokenizer of a folder. Raises ValueError if it cannot be read."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, subfolder=subfolder, local_files_only=True)
    except Exception as error:  # files that are damaged raise what has no class of its own
        raise ValueError(str(error)) from None
