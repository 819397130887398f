"""Sources without what changes no figure, definition by definition.

Python is taken as its syntax tree without imports, ``__all__``, docstrings, annotations outside a
class body (inside one they make fields), the words of a raised error and those of a setting; C++ as
its tokens without comments, includes and namespaces.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

Import = tuple[str, str | None]
"""A module, as an absolute name, and what is taken from it; ``None`` for the module itself."""


@dataclass(frozen=True, eq=False)
class Statement:
    """One statement at the top of a module: mostly a definition."""

    node: ast.stmt
    names: frozenset[str]
    """What it takes from outside: definitions of its module, imports, what is built in."""
    attributes: frozenset[tuple[str, str]]
    """Pairs of such a name and an attribute of it."""


@dataclass(frozen=True, eq=False)
class Module:
    """A Python file."""

    imported: tuple[Import, ...]
    """All imports that run, wherever in the file."""
    imports: dict[str, Import]
    """What each imported name stands for, those for type checkers included."""
    statements: tuple[Statement, ...]
    defined: dict[str, tuple[int, ...]]
    """Numbers of the statements that give a value to each name."""


@functools.cache
def python_module(name: str, package: bool, text: str) -> Module:
    """Parse a file.

    Args:
        name: dotted, of the module.
        package: whether the file is an ``__init__.py``.
        text: what stands in it.
    """
    tree = ast.parse(text)
    statements: list[Statement] = []
    defined: dict[str, tuple[int, ...]] = {}
    for node in _kept(tree.body):
        writer = _Writer()
        if not writer.text(node):
            continue
        for each in _bound_by(node, writer):
            defined[each] = (*defined.get(each, ()), len(statements))
        outside = writer.used - writer.bound
        pairs = {pair for pair in writer.attributes if pair[0] in outside}
        statements.append(Statement(node, frozenset(outside), frozenset(pairs)))
    home = name.split(".")[: None if package else -1]
    return Module(
        tuple(target for node in _running(tree) for _, target in _imports(node, home)),
        dict(pair for node in ast.walk(tree) for pair in _imports(node, home)),
        tuple(statements),
        defined,
    )


def python_text(statement: Statement, modules: frozenset[str] = frozenset()) -> str:
    """A statement as one line.

    Args:
        statement: of :func:`python_module`.
        modules: names that stand for modules: ``module.name`` is written as ``name``.
    """
    return _Writer(modules).text(statement.node)


def _imports(node: ast.AST, home: list[str]) -> Iterator[tuple[str, Import]]:
    """The names that an import statement binds in a module of the package ``home``."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name, (alias.name, None)
    elif isinstance(node, ast.ImportFrom):
        above = home[: len(home) - node.level + 1] if node.level else []
        target = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            yield alias.asname or alias.name, (target, alias.name)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree, but for those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if not _is_for_types(child):
            yield child
            yield from _running(child)


def _is_for_types(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _kept(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements of a block that can change a figure."""
    return [each for each in body if not _says_nothing(each)]


def _says_nothing(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id == "__all__"
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)) or _is_for_types(node)


def _bound_by(node: ast.stmt, writer: _Writer) -> set[str]:
    """The names that a statement gives to its module."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    return writer.bound


class _Writer:
    """Writes a tree as text, and keeps the names that it met.

    Own code instead of ``ast.dump`` and ``ast.unparse``, whose texts differ between versions of
    Python.
    """

    def __init__(self, modules: frozenset[str] = frozenset()) -> None:
        self._modules = modules
        self._in_class = False
        self._globals: set[str] = set()
        self._bound: set[str] = set()
        self.used: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()

    @property
    def bound(self) -> set[str]:
        """Names that are given a value, but for the fields of classes: methods do not see those."""
        return self._bound - self._globals

    def text(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                self.used.add(node.id)
            else:
                self._bind(node.id)
            return node.id
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = node.value.id
            self.used.add(owner)
            self.attributes.add((owner, node.attr))
            return node.attr if owner in self._modules else f"{owner}.{node.attr}"
        if isinstance(node, ast.arg):
            self._bind(node.arg)
            return node.arg
        if isinstance(node, ast.Raise):
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            return f"Raise({self.text(error) if error else ''})"
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "setting":
            node = ast.Call(node.func, node.args[:1], node.keywords)  # not what it says
        if isinstance(node, ast.AnnAssign) and not self._in_class:
            if node.value is None:
                return ""
            node = ast.Assign([node.target], node.value)
        if isinstance(node, ast.Global):
            self._globals.update(node.names)
            self.used.update(node.names)
        if isinstance(node, ast.ExceptHandler) and node.name:
            self._bind(node.name)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self._bind(node.name)
        outer = self._in_class
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            self._in_class = isinstance(node, ast.ClassDef)
        text = f"{type(node).__name__}({', '.join(self._fields(node))})"
        self._in_class = outer
        return text

    def _bind(self, name: str) -> None:
        if not self._in_class:
            self._bound.add(name)

    def _fields(self, node: ast.AST) -> Iterator[str]:
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "kind", "returns", "type_comment"):
                continue
            if isinstance(value, ast.AST):
                yield f"{name}={self.text(value)}"
            elif isinstance(value, list):
                kept = _kept(value) if value and isinstance(value[0], ast.stmt) else value
                texts = [self.text(e) if isinstance(e, ast.AST) else repr(e) for e in kept]
                if any(texts):
                    yield f"{name}=[{', '.join(text for text in texts if text)}]"
            elif value is not None or isinstance(node, ast.Constant):
                yield f"{name}={value!r}"


_COMMENT = re.compile(
    r"""("(?:\\.|[^"\\\n])*"|(?<!\w)'(?:\\.|[^'\\\n])+')|//(?:\\\n|[^\n])*|/\*.*?\*/""", re.S
)
_TOKEN = re.compile(
    r"""^[ \t]*\#[^\n]*                             # a directive
    | "(?:\\.|[^"\\])*" | (?<!\w)'(?:\\.|[^'\\])+'
    | \.?\d(?:[eEpP][+-]|[\w.'])*                # a number
    | \w+
    | <<=|>>=|->|::|\+\+|--|&&|\|\||[-+*/%&|^<>=!]=|<<|>>|\S""",
    re.M | re.X,
)


def cpp_declarations(text: str) -> tuple[str, ...]:
    """The declarations of a C++ file, each as its tokens in one line; namespaces left out.

    What stands between ``#if`` and ``#endif`` outside of all declarations is one declaration.
    """
    plain = _COMMENT.sub(lambda match: match[1] or " ", text).replace("\\\n", " ")
    tokens = [match[0] for match in _TOKEN.finditer(plain)]
    found: list[str] = []
    current: list[str] = []
    braces = conditions = 0

    def end() -> None:
        if any(token != ";" for token in current):
            found.append(" ".join(current))
        current.clear()

    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if token.lstrip().startswith("#"):
            words = token.replace("#", " ", 1).split()
            if words[:1] in ([], ["include"]) or words == ["pragma", "once"]:
                continue
            alone = not current
            current.append(f"\n#{' '.join(words)}\n")
            if alone or conditions:
                conditions += words[0] in ("if", "ifdef", "ifndef")
                conditions -= words[0] == "endif"
                if not conditions:
                    end()
            continue
        if not (token == "}" and not braces and not conditions):  # else: it closes a namespace
            current.append(token)
        if conditions:
            continue
        if token == "{" and not braces and _opens_namespace(current):
            current.clear()
        elif token == "{":
            braces += 1
        elif token == "}" and braces:
            braces -= 1
            if not braces and following not in (*";,.=(){",):
                end()
        elif token == ";" and not braces:
            end()
    end()
    return tuple(found)


def _opens_namespace(tokens: list[str]) -> bool:
    return tokens[0] == "namespace" or tokens[:2] in (["inline", "namespace"], ["extern", '"C"'])
