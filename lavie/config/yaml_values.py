"""Values from YAML text, read by the types of their keys.

PyYAML follows YAML 1.1, where `no` is false, 010 is 8, 1:30 is 90 and 1e5 is text. Values without quotes are read so:

1. A key that holds text takes it as typed: `no`, 20261128 and 1e5 are text there. Only `null`, `~` and an empty value
   are null.
2. Any other key takes null, true, false, yes, no, on, off and decimal numbers, 1e5 among them.
3. What YAML 1.1 reads as another number than one sees is refused, and the message says what it looks like.

A key that stands twice in a mapping is an error, for the first one would be lost.
"""

import re
from typing import Any

import yaml
from pydantic import BaseModel

from ..errors import ConfigError
from .types import entry, holds_text, key_type, scalars, section

NULL = ("", "~", "null", "Null", "NULL")
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
TRAPS = (
    (re.compile(r"[-+]?0[0-9]+"), "a number that begins with 0, which some YAML reads as octal"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"), "a number that is not decimal"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"), "a number with _"),
    (re.compile(r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?"), "a time, or a number to the base 60"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"), "a date"),
)
"""Values that are no numbers here, though YAML 1.1 reads numbers or dates in them, each with what it is."""


def read_document(text: str, model: type[BaseModel] | None) -> Any:
    """Return the content of a YAML file as plain values: dict, list, str, int, float, bool or None.

    Args:
        text: one document.
        model: the section that it describes, whose types say how values are read; None reads all as far as it can.

    Raises:
        ConfigError: a key stands twice, a value is a trap of YAML 1.1, or the nesting is too deep.
        yaml.YAMLError: the text is no YAML, or has a tag that is not of YAML's own.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()  # type: ignore[no-untyped-call]
        return None if node is None else _Reader(loader, "line {line}: ").read(node, model, "")
    except RecursionError:
        raise ConfigError("brackets or lines are nested too deep") from None
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def read_value(text: str, annotation: Any, key: str) -> Any:
    """Return the value of an override, `key=text`, as plain values.

    A key of text takes `text` as it stands unless it is null, in quotes, or begins as a list or a mapping.

    Args:
        text: what stands behind the first equals sign.
        annotation: the type of the key.
        key: its dotted name, for messages.

    Raises:
        ConfigError: the text is no YAML, YAML would cut it off, or it is a trap of YAML 1.1.
    """
    as_typed = annotation is None or holds_text(annotation)
    if as_typed and not text.startswith(("'", '"', "[", "{")):
        return None if text in NULL[1:] else text
    if as_typed and text.startswith("{") and section(entry(annotation, 0) or annotation) is None:
        return text

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()  # type: ignore[no-untyped-call]
        if node is None:
            return None
        rest = text[node.end_mark.index :].strip()
        if rest and as_typed and isinstance(node, yaml.ScalarNode):
            return text
        if rest:
            raise ConfigError(f"{rest!r} would be cut off: put quotes around a value that holds ' #'")
        return _Reader(loader, "").read(node, annotation, key)
    except yaml.YAMLError as error:
        if as_typed and text.startswith(("'", '"')):
            return text
        raise ConfigError(
            f"its value is no YAML: {one_line(error)}; text with , : # [ ] in a list goes in quotes, as ['a, b']"
        ) from None
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def one_line(error: Exception) -> str:
    """Return an error's message without its line breaks."""
    return " ".join(str(error).split())


class _Reader:
    """Makes plain values of the nodes of one document."""

    def __init__(self, loader: yaml.SafeLoader, place: str) -> None:
        """Take the loader of the nodes, and how a message begins, which may name {line}."""
        self.loader = loader
        self.place = place
        self.done: dict[tuple[int, str], Any] = {}
        self.open: list[yaml.Node] = []
        self.flat: set[int] = set()

    def read(self, node: yaml.Node, annotation: Any, key: str) -> Any:
        """Return the value of a node whose key has a type; None for a key that is not known."""
        # An alias is its anchor's node once more: read once for each type, for aliases of aliases grow beyond bounds.
        known = id(node), repr(annotation)
        if known not in self.done:
            if any(node is other for other in self.open):
                raise self._error(node, f"{key or 'the file'} holds itself, by an alias")
            self.open.append(node)
            self.done[known] = self._read(node, annotation, key)
            self.open.pop()
        return self.done[known]

    def _read(self, node: yaml.Node, annotation: Any, key: str) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, annotation, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.read(value, entry(annotation, i), f"{key}[{i}]") for i, value in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            implied = self.loader.resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))  # type: ignore[no-untyped-call]
            if node.style is not None and node.tag == implied:
                return node.value
            if node.tag == implied:
                return self._plain(node, annotation, key)
        return self.loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]  # a tag: YAML's own, or an error

    def _mapping(self, node: yaml.MappingNode, annotation: Any, key: str) -> dict[str, Any]:
        """Return the entries of a mapping, with those that `<<` merges into it."""
        # Before `<<` is resolved: afterwards what it brings stands beside the keys that overrule it.
        if id(node) not in self.flat:
            self._check_keys(node, key)
            self.loader.flatten_mapping(node)
            self.flat.add(id(node))
        model = section(annotation) or section(entry(annotation, 0))  # a single entry may stand for a list
        result = {}
        for name, value in node.value:
            path = f"{key}.{name.value}" if key else name.value
            result[name.value] = self.read(value, key_type(model, name.value), path)
        return result

    def _check_keys(self, node: yaml.MappingNode, key: str) -> None:
        """Raise ConfigError at a key of a mapping that is no name, or stands there twice."""
        lines: dict[str, int] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise self._error(name, f"a key of {key or 'the file'} is a list or a mapping: wanted a name")
            line = name.start_mark.line + 1
            if name.value in lines and name.tag != "tag:yaml.org,2002:merge":
                where = f"on line {lines[name.value]} and again on line {line}" if self.place else "twice"
                path = f"{key}.{name.value}" if key else name.value
                raise ConfigError(f"key {path} stands {where}: keep one of them")
            lines[name.value] = line

    def _plain(self, node: yaml.ScalarNode, annotation: Any, key: str) -> Any:
        """Return the value of a scalar without quotes."""
        text = node.value
        if text in NULL:
            return None
        kinds = scalars(annotation) if annotation is not None else set()
        if kinds == {str}:
            return text
        # A number that is true would be 1: what no key of truth values takes stays text, and is refused by its type.
        if text.lower() in TRUTH and (bool in kinds or (not kinds and text.lower() in ("true", "false"))):
            return TRUTH[text.lower()]
        if WHOLE.fullmatch(text):
            return int(text)
        if NUMBER.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        for pattern, what in TRAPS:
            if kinds & {int, float} and str not in kinds and pattern.fullmatch(text):
                raise self._error(node, f"{key}: {text} is {what}: wanted a decimal number, as 10 or 1e-5")
        return text

    def _error(self, node: yaml.Node, message: str) -> ConfigError:
        """Return an error that begins with the place of a node."""
        return ConfigError(self.place.format(line=node.start_mark.line + 1) + message)
