"""The base class of every section of the configuration, and a type that several sections use."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A section of the configuration: frozen, and closed to unknown keys."""

    input_keys: ClassVar[dict[str, str]] = {}
    """Keys that a file may give and that become values of other keys, each with what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]
"""A number above 0."""
