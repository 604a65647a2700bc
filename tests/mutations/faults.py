"""Small, plausible faults of the code: an operator, a constant, an argument, a check or a step is wrong or missing.

Each is a change of a few characters that still parses. Docstrings, messages, logging, type hints, and what only says
how long to wait or how fast to run, stay as they are.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

SIGN, COMPARISON, TURNED = "sign flipped", "comparison", "condition turned"
OPERATORS = {
    **{ast.Add: ("+", "-", SIGN), ast.Sub: ("-", "+", SIGN), ast.USub: ("-", "", SIGN), ast.Not: ("not ", "", TURNED)},
    **{ast.Mult: ("*", "/", "operator"), ast.Div: ("/", "*", "operator"), ast.Mod: ("%", "//", "operator")},
    **{ast.BitAnd: ("&", "|", "operator"), ast.BitOr: ("|", "&", "operator")},
    **{ast.Lt: ("<", "<=", COMPARISON), ast.LtE: ("<=", "<", COMPARISON)},
    **{ast.Gt: (">", ">=", COMPARISON), ast.GtE: (">=", ">", COMPARISON)},
    **{ast.Eq: ("==", "!=", TURNED), ast.NotEq: ("!=", "==", TURNED)},
    **{ast.Is: ("is", "is not", TURNED), ast.IsNot: ("is not", "is", TURNED)},
    **{ast.In: ("in", "not in", TURNED), ast.NotIn: ("not in", "in", TURNED)},
    **{ast.And: ("and", "or", "and for or"), ast.Or: ("or", "and", "and for or")},
}
"""What stands in the code for an operator, what the fault puts there, and the kind of the fault."""
PAIRS = {"sum": "mean", "min": "max", "any": "all", "floor": "ceil", "clamp_min": "clamp_max", "minimum": "maximum"}
NAMESAKES = PAIRS | {b: a for a, b in PAIRS.items()} | {"sorted": "list", "rint": "trunc", "round": "int"}
"""Functions that take one another's arguments."""

QUIET = re.compile(
    r"(log|logger|logging|console|typer|sys\.std\w+)\.|(print|warnings\.warn|time\.sleep)$|\w*(Error|Exit)$"
)
"""Calls that say something, wait, or make an error to raise."""
HARMLESS = {"help", "description", "maxsize", "encoding", "daemon", "stacklevel", "num_warps", "num_stages"}
HARMLESS |= {"alpha", "framealpha", "color", "fontsize", "linewidth", "figsize", "dpi", "loc"}
"""Keywords whose value no test can notice: what they say, wait for, how fast they make it, how a plot looks."""
WAITS = re.compile(r"(?i)(seconds|timeout|patience|pause)$|^__all__$")
"""Names whose constants stay."""

SHELL = (
    (r"\s-(ge|lt)\s", lambda m: {"ge": " -gt ", "lt": " -le "}[m[1]], COMPARISON),
    (r"\s-(gt|le)\s", lambda m: {"gt": " -ge ", "le": " -lt "}[m[1]], COMPARISON),
    (r"\s-eq\s", lambda m: " -ne ", TURNED),
    (r"(?<=\[\[ )-n ", lambda m: "-z ", TURNED),
    (r"(?<= )[=!]=(?= )", lambda m: "!=" if m[0] == "==" else "==", TURNED),
    (r" (&&|\|\|) ", lambda m: " || " if m[1] == "&&" else " && ", "and for or"),
    (r"(?<=[ =(])\d+\b", lambda m: str(int(m[0]) + 1), "off by one"),
    (r" --[a-z][a-z-]*(=\"?[^\s\"]+\"?)?(?= )", lambda m: "", "option ignored"),
    (r"(?<=export )\w+=\S+ ", lambda m: "", "variable lost"),
    (r"^(\s*)(requeue|exit|trap|unset|break|shift|export|ask_to_stop)\b.*$", lambda m: m[1] + "true", "step left out"),
)
"""What the rules look for in the scripts of launch/, and what they make of it."""


@dataclass(frozen=True)
class Fault:
    """One change of one file: the bytes from `start` to `end` become `new`."""

    path: str
    kind: str
    line: int
    """The line of its start, counted from 1."""
    was: str
    """The lines that it changes, blanks made one."""
    now: str
    """The same lines with the fault."""
    start: int
    end: int
    new: str

    def applied(self, text: str) -> str | None:
        """Return the file's text with the fault, or None if that is no code."""
        whole = text.encode()
        changed = (whole[: self.start] + self.new.encode() + whole[self.end :]).decode()
        try:
            return changed if ast.parse(changed if self.path.endswith(".py") else "") else None
        except SyntaxError:
            return None


class Source:
    """A file's text, and the places of its syntax tree in it."""

    def __init__(self, path: str, text: str):
        self.path, self.bytes = path, text.encode()
        self.starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return the byte at which a node begins, and the one after it."""
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.AST) -> str:
        """Return the text of a node."""
        return self.bytes[slice(*self.span(node))].decode()

    def change(self, kind: str, span: tuple[int, int], new: str) -> Iterator[Fault]:
        """Yield the fault that puts `new` in the place of some bytes."""
        start, end = span
        first, last = self.bytes.rfind(b"\n", 0, start) + 1, self.bytes.find(b"\n", end)
        head, middle, tail = (self.bytes[a:b].decode() for a, b in ((first, start), span, (end, last)))
        was, now = (" ".join((head + part + tail).split()) for part in (middle, new))
        if was != now:
            yield Fault(self.path, kind, self.bytes.count(b"\n", 0, start) + 1, was, now, start, end, new)

    def operator(self, op: ast.AST, start: int, end: int) -> Iterator[Fault]:
        """Exchange the operator that stands in some bytes."""
        if type(op) in OPERATORS:
            old, new, kind = OPERATORS[type(op)]
            yield from self.change(kind, (start, end), self.bytes[start:end].decode().replace(old, new, 1))

    def without(self, kind: str, items: list[tuple[ast.AST, ast.AST]], i: int) -> Iterator[Fault]:
        """Leave out one of several items, each given by its first and its last node, with a separator beside it."""
        start, end = self.span(items[i][0])[0], self.span(items[i][1])[1]
        if i + 1 < len(items):
            end = self.span(items[i + 1][0])[0]
        elif i:
            start = self.span(items[i - 1][1])[1]
        yield from self.change(kind, (start, end), "")


def faults_of(path: str, text: str) -> list[Fault]:
    """Return all faults that the rules make of a file, in the order of their places."""
    source = Source(path, text)
    found = walk(source, ast.parse(text)) if path.endswith(".py") else shell(source)
    return sorted(found, key=lambda fault: (fault.line, fault.kind, fault.now))


def walk(source: Source, node: ast.AST, wait: bool = False) -> Iterator[Fault]:
    """Yield the faults of a node and of those below it; `wait`: its constants are times to wait, and stay."""
    below = list(ast.iter_child_nodes(node))
    match node:
        case ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return
        case ast.Raise():
            yield from source.change("check removed", source.span(node), "pass")
            return
        case ast.FunctionDef(name="__repr__" | "__str__") | ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return
        case ast.Subscript(value=ast.Name(id="Literal")):  # a type hint
            return
        case ast.Call(func=called) if QUIET.match(ast.unparse(called)):
            return
        case ast.Call(func=ast.Name(id="zip")):
            below = node.args  # strict=True is a check of what must be so
        case ast.FunctionDef(args=arguments):
            given = [*zip(arguments.args[::-1], arguments.defaults[::-1], strict=False)]
            given += [*zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
            below = [*(default for name, default in given if default and not WAITS.search(name.arg)), *node.body]
        case ast.ClassDef():
            below = node.body
        case ast.Assign(value=value) | ast.AnnAssign(value=value):
            below = [value] if value else []
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            wait = any(WAITS.search(ast.unparse(target)) for target in targets)
        case ast.keyword(arg=str(name)) if name in HARMLESS or WAITS.search(name):
            return
    if not wait:
        yield from here(source, node)
    for child in below:
        yield from walk(source, child, wait)


def here(source: Source, node: ast.AST) -> Iterator[Fault]:
    """Yield the faults of one node alone."""
    span = source.span(node) if hasattr(node, "lineno") else (0, 0)
    match node:
        case ast.BinOp(op=ast.FloorDiv(), left=left, right=right):
            a, b = source.of(left), source.of(right)
            yield from source.change("rounded up", span, f"(({a}) + ({b}) - 1) // ({b})")
        case ast.BinOp(left=a, right=b) | ast.AugAssign(target=a, value=b) | ast.Compare(left=a, comparators=[b]):
            if not {type(a), type(b)} & {ast.JoinedStr, ast.List} and not (isinstance(node, ast.BinOp) and texts([b])):
                op = node.ops[0] if isinstance(node, ast.Compare) else node.op
                yield from source.operator(op, source.span(a)[1], source.span(b)[0])
        case ast.UnaryOp(op=op, operand=operand):
            yield from source.operator(op, span[0], source.span(operand)[0])
        case ast.BoolOp(op=op, values=values):
            for i, value in enumerate(values):
                yield from source.without("condition left out", [(v, v) for v in values], i)
                if i:
                    yield from source.operator(op, source.span(values[i - 1])[1], source.span(value)[0])
        case ast.Constant(value=bool(value)):
            yield from source.change("option turned", span, str(not value))
        case ast.Constant(value=int(value)):
            yield from source.change("off by one", span, str(value + 1))
        case ast.Constant(value=float(value)):
            yield from source.change("constant", span, repr(value * 2 or 1.0))
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):
                if bound is not None and not isinstance(bound, (ast.Constant, ast.UnaryOp)):
                    yield from source.change("off by one", (source.span(bound)[1],) * 2, " + 1")
        case ast.IfExp(body=body, orelse=orelse):
            for branch in (body, orelse):
                yield from source.change("branch", span, f"({source.of(branch)})")
        case ast.comprehension(ifs=ifs):
            for before, condition in zip([node.iter, *ifs], ifs, strict=False):
                yield from source.change("filter left out", (source.span(before)[1], source.span(condition)[1]), "")
        case ast.Dict(keys=keys, values=values) if all(keys):
            for i, key in enumerate(keys):
                yield from source.without(f"key {ast.unparse(key)} lost", list(zip(keys, values, strict=True)), i)
        case ast.Tuple(elts=[a, b]) if texts([a, b]):
            for kept in (a, b):
                yield from source.change("element lost", span, f"({source.of(kept)},)")
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements) if texts(elements):
            for i in range(len(elements)):
                yield from source.without("element lost", [(e, e) for e in elements], i)
        case ast.If(body=[ast.Return() | ast.Continue() | ast.Break() as leave]):
            yield from source.change("early way out lost", source.span(leave), "pass")
        case ast.Expr(value=ast.Call(func=called)) if not re.match(rf"{QUIET.pattern}|super\(", ast.unparse(called)):
            yield from source.change("step left out", span, "pass")
        case ast.Call():
            yield from call_faults(source, node)


def call_faults(source: Source, node: ast.Call) -> Iterator[Fault]:
    """Yield the faults of a call: its arguments, and the function that is called."""
    arguments: list[ast.AST] = [*node.args, *node.keywords]
    name = ast.unparse(node.func).split(".")[-1]
    for i, argument in enumerate(arguments):
        if isinstance(argument, ast.keyword) and name != "zip":
            if argument.arg is None or argument.arg in HARMLESS or WAITS.search(argument.arg):
                continue
            yield from source.without(f"option {argument.arg} ignored", [(a, a) for a in arguments], i)
        elif i and i + 1 == len(node.args):
            yield from source.without("argument left out", [(a, a) for a in arguments], i)
    for a, b in zip(node.args, node.args[1:], strict=False):
        if not {type(a), type(b)} & {ast.Starred} and name not in ("isinstance", "issubclass", "getattr"):
            (start, left), (right, end) = source.span(a), source.span(b)
            swapped = source.of(b) + source.bytes[left:right].decode() + source.of(a)
            yield from source.change("arguments swapped", (start, end), swapped)
    if name == "range":
        stop = source.span(node.args[min(1, len(node.args) - 1)])[1]
        yield from source.change("off by one", (stop, stop), " - 1")
    if name in NAMESAKES and (name != "sum" or isinstance(node.func, ast.Attribute)):
        end = source.span(node.func)[1]
        yield from source.change(f"{NAMESAKES[name]} for {name}", (end - len(name), end), NAMESAKES[name])


def texts(nodes: list[ast.AST]) -> bool:
    """Return whether nodes are constants of text."""
    return all(isinstance(node, ast.Constant) and isinstance(node.value, str) for node in nodes)


def shell(source: Source) -> Iterator[Fault]:
    """Yield the faults of a shell script; comments and what it says stay, #SBATCH lines do not."""
    for start, end in zip(source.starts, source.starts[1:], strict=False):
        line = source.bytes[start:end].decode().rstrip("\n")
        code = line if line.startswith("#SBATCH") else re.sub(r"(^|\s)#.*", "", line)
        if re.match(r"\s*(say|echo|printf|die|usage=)", code):
            continue
        for pattern, new, kind in SHELL:
            for match in re.finditer(pattern, code):
                at = start + len(line[: match.start()].encode())
                yield from source.change(kind, (at, at + len(match[0].encode())), new(match))
