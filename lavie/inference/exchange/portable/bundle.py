"""Several modules of this project as one file that imports none of it.

The file holds all that a template module defines, and whatever that needs of some other modules, each as it stands in
its source, with its comments. Of a class only the methods stay that something in the file calls. A class of the
template that has the name of a class of the sources is merged with it: its methods take the place of the source's.

Names are looked up in the file as a whole, so no two definitions that are needed may share one.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .... import __version__

PACKAGE = Path(__file__).parents[3]
"""The folder of this project's package."""
WIDTH = 120
"""Characters of a line."""
ALWAYS = ("forward", "extra_repr")
"""Methods that PyTorch calls, beside those of two underscores."""


@dataclass
class Part:
    """A top-level definition, or a member of a class."""

    names: tuple[str, ...]
    """What it defines; nothing for a docstring."""
    text: str
    """Its lines, and the comments in front of it."""
    node: ast.stmt
    members: "list[Part]" = field(default_factory=list)
    """The docstring, attributes and methods of a class, in order."""

    @property
    def is_method(self) -> bool:
        """Whether it is left out where nothing calls it."""
        named = isinstance(self.node, ast.FunctionDef) and not self.names[0].startswith("__")
        return named and self.names[0] not in ALWAYS


@dataclass(frozen=True)
class Module:
    """A module, cut into parts."""

    name: str
    """Its path below the package, as models/unet.py."""
    parts: list[Part]
    imports: dict[str, str]
    """Statements that import from other packages, by the name that each of them binds."""


def bundle(title: str, sources: Sequence[str], template: str, *, without: Iterable[str] = ()) -> str:
    """Return the text of the file.

    Args:
        title: its docstring, a sentence or more.
        sources: modules by their paths below the package, each behind those that it builds on.
        template: the module whose definitions all stay, and come last.
        without: names of base classes that are left out wherever they stand.

    Raises:
        ValueError: two definitions that are needed have one name.
    """
    last = read_module(template)
    modules = [*map(read_module, sources), last]
    own = {name: part for part in last.parts for name in part.names}
    merged = [Module(m.name, _merged(m, own, last, frozenset(without)), m.imports) for m in modules]
    merged[-1] = Module(last.name, [p for p in merged[-1].parts if not _is_replaced(p, merged[:-1])], last.imports)
    kept = _needed(merged, own)
    return _written(title, merged, kept)


def read_module(name: str) -> Module:
    """Cut a module of the package into its top-level definitions."""
    text = (PACKAGE / name).read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    imports = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            for alias in node.names:
                alone = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
                imports[alias.asname or alias.name.split(".")[0]] = ast.unparse(alone)
    return Module(name, _parts(tree.body, lines, 0), imports)


def _parts(body: Sequence[ast.stmt], lines: Sequence[str], end: int) -> list[Part]:
    """Return the parts of a module's or a class's body; `end`: the line behind which they begin."""
    parts: list[Part] = []
    for node in body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        while first > end and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        text, end = "\n".join(lines[first : node.end_lineno]), node.end_lineno or 0
        if isinstance(node, ast.Expr) and parts and isinstance(parts[-1].node, ast.Assign | ast.AnnAssign):
            parts[-1].text += "\n" + text  # the docstring of an attribute
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            members = _parts(node.body, lines, node.body[0].lineno - 1) if isinstance(node, ast.ClassDef) else []
            parts.append(Part(_defined(node), text, node, members))
    return parts


def _defined(node: ast.stmt) -> tuple[str, ...]:
    """Return the names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return tuple(n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name))


def _merged(module: Module, own: dict[str, Part], template: Module, without: frozenset[str]) -> list[Part]:
    """Return the parts of a module, the template's members in the place of those of their names."""
    parts = []
    for part in module.parts:
        if not isinstance(part.node, ast.ClassDef):
            if part.names and (module is template or part.names[0] not in own):
                parts.append(part)
            elif part.names and part.names[0] in own:
                parts.append(own[part.names[0]])
            continue
        given = own.get(part.names[0], part)
        assert isinstance(given.node, ast.ClassDef)
        bases = _bases(given.node, {part.names[0], *without}) or _bases(part.node, {*without})
        members = list(given.members)
        if given is not part:
            members = _with_members(part, given)
        header = f"class {part.names[0]}({', '.join(bases)}):" if bases else f"class {part.names[0]}:"
        node = ast.ClassDef(part.names[0], [ast.parse(b, mode="eval").body for b in bases], [], [], [])
        decorators = "".join(f"@{ast.unparse(d)}\n" for d in given.node.decorator_list)
        node.decorator_list = given.node.decorator_list
        parts.append(Part(part.names, decorators + header, node, members))
    return parts


def _bases(node: ast.ClassDef, without: Iterable[str]) -> list[str]:
    """Return the base classes of a class, but for some."""
    return [base for base in map(ast.unparse, node.bases) if base.split(".")[-1] not in without]


def _with_members(source: Part, given: Part) -> list[Part]:
    """Return the members of a class of the sources, those of the template in place of theirs or behind them."""
    theirs = {m.names for m in source.members if m.names}
    own = {m.names: m for m in given.members if m.names}
    docstring = [m for m in (given.members[:1] if not given.members[0].names else source.members[:1]) if not m.names]
    fields = [m for m in own.values() if not isinstance(m.node, ast.FunctionDef)]
    added = [m for names, m in own.items() if names not in theirs and isinstance(m.node, ast.FunctionDef)]
    # Of a model of pydantic the fields and what checks them stay away: the template says where attributes come from.
    methods = [m for m in source.members if isinstance(m.node, ast.FunctionDef) and not _validates(m.node)]
    return [*docstring, *fields, *(own.get(member.names, member) for member in methods), *added]


def _validates(node: ast.FunctionDef) -> bool:
    """Return whether a method is a check of pydantic's."""
    return any("validator" in ast.unparse(decorator) for decorator in node.decorator_list)


def _is_replaced(part: Part, before: Sequence[Module]) -> bool:
    """Return whether a definition of the template stands at the place of a source's already."""
    return any(part.names == other.names for module in before for other in module.parts)


def _needed(modules: Sequence[Module], own: dict[str, Part]) -> set[int]:
    """Return the ids of the parts that the template's definitions need, these among them."""
    kept: set[int] = set()
    always = {id(member) for part in own.values() for member in part.members}
    names = set(own)
    attributes: set[str] = set()
    while True:
        before = len(kept)
        for module in modules:
            for part in module.parts:
                if names.isdisjoint(part.names):
                    continue
                for member in [part, *part.members]:
                    idle = member.is_method and not _called(member, attributes) and id(member) not in always
                    if id(member) in kept or (member is not part and idle):
                        continue
                    kept.add(id(member))
                    for found in _nodes(part, member):
                        if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Load):
                            names.add(found.id)
                        elif isinstance(found, ast.Attribute):
                            attributes.add(found.attr)
        if len(kept) == before:
            return kept


def _nodes(part: Part, member: Part) -> Iterator[ast.AST]:
    """Return the nodes of a part, or of one of its members; those of a class are its head's alone."""
    roots: Sequence[ast.AST] = [member.node]
    if member is part and isinstance(part.node, ast.ClassDef):
        roots = [*part.node.bases, *part.node.decorator_list]
    return (node for root in roots for node in ast.walk(root))


def _called(member: Part, attributes: set[str]) -> bool:
    """Return whether something reads a member by its name."""
    return not attributes.isdisjoint(member.names)


def _written(title: str, modules: Sequence[Module], kept: set[int]) -> str:
    """Return the text of the parts that stay, with the imports that they use."""
    sections, gaps, used, defined = [], [], set(), set()
    for module in modules:
        texts = []
        for part in module.parts:
            if id(part) not in kept:
                continue
            for name in part.names:
                if name in defined:
                    raise ValueError(f"{module.name}: {name} is defined by another module of the file too")
                defined.add(name)
            members = [member for member in part.members if id(member) in kept]
            text = _class_text(part, members) if part.members else part.text
            texts.append((part, text))
            used |= {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
        if texts:
            gap = "" if isinstance(texts[0][0].node, ast.FunctionDef | ast.ClassDef) else "\n"
            gaps.append(gap)
            sections.append(f"# From lavie/{module.name}\n{gap}" + _joined(texts))
    imports = {name: line for module in modules for name, line in module.imports.items() if name in used}
    header = f'"""{title}\n\nGenerated by lavie {__version__} from its own source; licence Apache-2.0.\n"""\n'
    lines = _import_lines(imports.values()) + ("\n" if not gaps[0] else "")
    return "\n".join([header, lines, "", *(f"{s}\n" for s in sections)]).rstrip("\n") + "\n"


def _class_text(part: Part, members: Sequence[Part]) -> str:
    """Return the text of a class with some of its members."""
    text = part.text
    for before, member in zip([None, *members], members, strict=False):
        fields = before is not None and not isinstance(before.node, ast.FunctionDef) and before.names
        close = before is None or (fields and not isinstance(member.node, ast.FunctionDef))
        text += ("\n" if close else "\n\n") + member.text
    return text


def _joined(texts: Sequence[tuple[Part, str]]) -> str:
    """Return top-level definitions behind one another, two empty lines around functions and classes."""
    result = ""
    for number, (part, text) in enumerate(texts):
        block = isinstance(part.node, ast.FunctionDef | ast.ClassDef)
        after_block = number > 0 and isinstance(texts[number - 1][0].node, ast.FunctionDef | ast.ClassDef)
        if number:
            result += "\n\n\n" if block or after_block else "\n"
        result += text
    return result + "\n"


def _import_lines(statements: Iterable[str]) -> str:
    """Return import statements in order, those from one module as one: Python's own first."""
    names: dict[str, list[str]] = {}
    for statement in set(statements):
        module, _, name = statement.removeprefix("from ").partition(" import ")
        names.setdefault(module, []).append(name)
    # As ruff sorts them: whole modules first, then names from modules, whatever their case.
    order = sorted(names, key=lambda module: (not module.startswith("import "), module.lower()))
    lines = [
        f"from {module} import {', '.join(sorted(names[module]))}" if names[module] != [""] else module
        for module in order
    ]
    pythons = [line for line in lines if re.split(r"[ .]", line)[1] in sys.stdlib_module_names]
    others = [line for line in lines if line not in pythons]
    return "\n\n".join("\n".join(group) for group in (pythons, others) if group)
