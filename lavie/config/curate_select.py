"""The rules by which clips are chosen: the section `select` of a curation's YAML, and a file of rules alone."""

from typing import Literal

from pydantic import Field, model_validator

from .base import Strict

OF_CAPTIONS = ("caption_raw", "caption", "words", "captioner", "clip_score")
"""Columns that are made of captions: rules over them say nothing of which clips are captioned."""
SHORT_SIDE = "short_side"
"""The column that `min_side` is about: the lesser of width and height, in pixels."""


class Rule(Strict):
    """What a column must hold for a clip to be kept. All that is set must hold."""

    column: str
    """A column of a stage, or short_side (the lesser of width and height, in pixels) or aspect (width over height)."""
    min: float | None = None
    """The least value, for a column of numbers."""
    max: float | None = None
    """The largest value, for a column of numbers."""
    equals: bool | None = None
    """The value of a column that is true or false, as overlay."""
    among: tuple[str, ...] | None = Field(None, min_length=1)
    """The values that are kept of a column of text, as category."""
    empty: bool | None = None
    """true: only clips without a value are kept, as for duplicate_of; false: only those with one."""
    missing: Literal["drop", "keep"] = "drop"
    """What becomes of a clip without a value in this column. drop: it goes, and is counted apart from those whose value
    is out of bounds. keep: the rule says nothing of it, for a value that cannot be had of every clip."""

    @model_validator(mode="after")
    def _check(self) -> "Rule":
        """Check that the rule asks for something, and for one kind of thing."""
        kinds = [self.min is not None or self.max is not None, self.equals is not None, self.among is not None]
        if sum(kinds) + (self.empty is not None) != 1:
            raise ValueError(
                f"a rule over {self.column} sets {'more than one' if any(kinds) else 'none'} of min or max, equals, "
                "among and empty: wanted one"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} of {self.column} is above its max {self.max:g}: no clip would be kept")
        if self.empty is not None and self.missing == "keep":
            raise ValueError(f"empty already says what becomes of a clip without a {self.column}: leave missing out")
        return self

    @property
    def name(self) -> str:
        """The rule in one line, as "16 <= luma <= 235"."""
        if self.min is not None or self.max is not None:
            least = "" if self.min is None else f"{self.min:.12g} <= "
            most = "" if self.max is None else f" <= {self.max:.12g}"
            return f"{self.column} >= {self.min:.12g}" if not most else f"{least}{self.column}{most}"
        if self.equals is not None:
            return f"{self.column} is {str(self.equals).lower()}"
        if self.among is not None:
            return f"{self.column} is {' or '.join(self.among)}"
        return f"{self.column} is {'empty' if self.empty else 'there'}"


DEFAULT_RULES = (
    Rule(column="frames", min=16),  # the paper's
    Rule(column=SHORT_SIDE, min=720),  # the paper's "over 720p"
    Rule(column="aspect", min=1.2),  # the paper's "widescreen"
    Rule(column="luma", min=16, max=235),
    Rule(column="frozen", max=0.5),
    Rule(column="flow_mean", min=0.0003),
    Rule(column="overlay", equals=False, missing="keep"),  # a film of few shots does not tell
    Rule(column="text_area", max=0.02),
    Rule(column="aesthetic_mean", min=4.0),  # Movie Gen's; the paper's set has 4 % below
    Rule(column="duplicate_of", empty=True),
    Rule(column="words", min=3),  # the paper's
    Rule(column="clip_score", min=0.2),
)
"""The rules where none are given, from the cheapest to measure to the dearest."""


class SelectConfig(Strict):
    """Which clips are kept. No rule makes any stage but the captions be done again, and those for new clips alone."""

    rules: tuple[Rule, ...] | None = None
    """The rules, in the order in which the funnel tells of them; which clips are kept does not depend on it. Default:
    null, those of curation in general: frames >= 16, short_side >= 720, aspect >= 1.2, 16 <= luma <= 235,
    frozen <= 0.5, flow_mean >= 0.0003, no overlay, text_area <= 0.02, aesthetic_mean >= 4, no duplicate, words >= 3,
    clip_score >= 0.2. Of these, a rule whose column nobody has measured is left out, and told of."""
    min_side: int | None = Field(None, ge=1)
    """The least short side in pixels, in place of that of the rules. Default: null, theirs."""

    @model_validator(mode="after")
    def _check(self) -> "SelectConfig":
        """Check that each column has one rule, and that the one over short sides is there if it is to be changed."""
        columns = [rule.column for rule in self.rules or ()]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ValueError(f"{twice[0]} has two rules: join them, as in {{column: luma, min: 16, max: 235}}")
        if self.min_side is not None and self.rules is not None and SHORT_SIDE not in columns:
            raise ValueError(f"min_side changes the rule over {SHORT_SIDE}, and rules has none: add it")
        _ = self.chosen  # min_side may contradict a rule
        return self

    @property
    def chosen(self) -> tuple[Rule, ...]:
        """The rules that hold, with `min_side` in its place."""
        rules = DEFAULT_RULES if self.rules is None else self.rules
        side = self.min_side
        return tuple(
            Rule.model_validate(rule.model_dump() | {"min": side}) if side and rule.column == SHORT_SIDE else rule
            for rule in rules
        )
