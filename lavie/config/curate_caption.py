"""The settings of `lavie curate caption` and `lavie curate align`."""

from pydantic import Field, field_validator

from .base import OptionalPath, Strict
from .curate_select import Rule

KINDS = {
    "sidecar": "texts beside the films, or sidecar:TABLE, a csv, jsonl or parquet",
    "transformers": "transformers:PATH, the folder of a model that writes text about pictures",
    "vllm": "vllm:PATH, the same by vLLM",
    "command": "command:PROGRAM ARGUMENTS, which reads and writes JSON lines",
}
"""The captioners, each with how it is named."""
PROMPT = (
    "These pictures are frames of one video, in their order. Describe the video in one sentence of 8 to 20 words: the "
    "subject, what it does, where, and how the camera moves. Do not begin with 'the video shows', and do not mention "
    "text on the screen."
)
"""What a network is asked."""


class CaptionConfig(Strict):
    """Who writes the captions, and of what."""

    captioner: str | None = None
    """sidecar: the text beside a film, a.txt beside a.mp4, for all its clips; sidecar:TABLE: a csv, jsonl or parquet of
    captions by clip, or by film with start and end. transformers:PATH and vllm:PATH: a network on the disk.
    command:PROGRAM: anything that reads and writes JSON lines. Default: null, nobody, and there are no captions."""
    frames: int = Field(8, ge=1)
    """Frames of a clip that are looked at: the middles of so many equal parts. Not by sidecar."""
    side: int = Field(448, ge=16)
    """Pixels of their short side; smaller ones stay as they are."""
    prompt: str = Field(PROMPT, min_length=1)
    """What is asked."""
    max_tokens: int = Field(48, ge=1)
    """The most tokens of an answer; a sentence that they cut off is left out, unless there is no other."""
    batch: int = Field(8, ge=1)
    """Clips that a network describes at a time: fewer take less memory."""
    seconds: float = Field(120.0, gt=0)
    """How long a command may take for one clip before it is stopped, seconds."""
    decoders: int = Field(1, ge=1)
    """Processes that decode for one captioner. It changes no caption; a GPU wants as many as there are cores for it."""

    @field_validator("captioner")
    @classmethod
    def _known(cls, captioner: str | None) -> str | None:
        """Check that a captioner is one, and says where it is."""
        if captioner is None:
            return None
        kind, colon, rest = captioner.partition(":")
        if kind not in KINDS or (colon and not rest.strip()) or (not colon and kind != "sidecar"):
            raise ValueError(f"{captioner!r} is no captioner: wanted {'; '.join(KINDS.values())}")
        return captioner


class CaptionWork(Strict):
    """All that decides the captions of a unit: who writes them, and which clips are worth it."""

    caption: CaptionConfig
    """Who writes them."""
    rules: tuple[Rule, ...]
    """The rules over columns of earlier stages; only what they keep is captioned."""


class AlignConfig(Strict):
    """How well captions fit their clips, by the text side of the CLIP that has embedded the clips."""

    tokenizer: OptionalPath = None
    """A folder with CLIP's vocab.json and merges.txt, or tokenizer.json. Default: null, `clip.model`, which one of
    OpenAI's .pt files cannot be."""


class AlignWork(Strict):
    """All that decides the scores: the CLIP, and its tokenizer."""

    model: OptionalPath
    """As `clip.model`."""
    tokenizer: OptionalPath
    """As `align.tokenizer`."""
