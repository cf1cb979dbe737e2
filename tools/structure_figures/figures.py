"""What is measured. Pure: from the text of modules to numbers."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

from structure_figures.sources import Sources

_NO_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)


@dataclass(frozen=True, slots=True)
class Referenced:
    """How many functions there are, and how many of them are used in one place."""

    functions: int
    once: int
    """Their own file mentions them once, apart from the definition."""
    only_there: int
    """Of those, how many no other file mentions."""

    def percent(self, count: int) -> float:
        """What share of all functions that is."""
        return 100 * count / self.functions if self.functions else 0.0


@dataclass(frozen=True, slots=True)
class ClassSize:
    """A class and its lines, docstrings and blank lines included."""

    module: str
    name: str
    lines: int


def referenced_once(sources: Sources) -> Referenced:
    """Count the functions and methods that their own file mentions once.

    Names are compared as text, so a method counts as used where another of its name is.
    Methods that Python itself calls (``__init__``) do not count.
    """
    names = {module: _names(text) for module, text in sources.items()}
    modules_with = Counter(name for counted in names.values() for name in counted)
    functions = once = only_there = 0
    for module, text in sources.items():
        defined = Counter(_functions(ast.parse(text)))
        functions += defined.total()
        for name, definitions in defined.items():
            if names[module][name] == definitions + 1:
                once += definitions
                only_there += definitions if modules_with[name] == 1 else 0
    return Referenced(functions, once, only_there)


def _functions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_dunder(node.name):
            yield node.name


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _names(text: str) -> Counter[str]:
    return Counter(token.string for token in _tokens(text) if token.type == tokenize.NAME)


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


def lines_of_code(sources: Sources) -> int:
    """Lines that are neither blank, nor a comment, nor part of a string that stands alone."""
    return sum(len(_code_lines(text)) for text in sources.values())


def _code_lines(text: str) -> set[int]:
    lines = {
        line
        for token in _tokens(text)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and _is_text(node.value):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def largest_classes(sources: Sources, count: int = 4) -> list[ClassSize]:
    """The classes with most lines, the largest first."""
    sizes = [
        ClassSize(module, node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for module, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    ]
    return sorted(sizes, key=lambda size: (-size.lines, size.module, size.name))[:count]


def shared_class_names(sources: Sources) -> Mapping[str, list[str]]:
    """Names of public classes that several modules define, with those modules."""
    modules = defaultdict(list)
    for module, text in sources.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(module)
    return {name: found for name, found in sorted(modules.items()) if len(found) > 1}


def longest_import_chain(sources: Sources, package: str) -> list[str]:
    """Modules of a package of which each imports the next one; the longest such chain.

    Imports for type checkers and those inside functions do not count. Raises CycleError.
    """
    inside = {
        module: text
        for module, text in sources.items()
        if module == package or module.startswith(f"{package}.")
    }
    imports = {module: _imports(module, text, inside) for module, text in inside.items()}
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(imports).static_order():
        below = max((chains[name] for name in sorted(imports[module])), key=len, default=[])
        chains[module] = [module, *below]
    return max((chains[name] for name in sorted(chains)), key=len, default=[])


def _imports(module: str, text: str, known: Sources) -> set[str]:
    found = {
        name if name in known else name.rpartition(".")[0]
        for statement in _run_on_import(ast.parse(text))
        for name in _imported(module, statement)
    }
    return {name for name in found if name in known and name != module}


def _run_on_import(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _run_on_import(child)


def _imported(module: str, statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    base = statement.module or ""
    if statement.level:
        parents = module.split(".")[: -statement.level]
        base = ".".join([*parents, base] if base else parents)
    yield from (f"{base}.{alias.name}" for alias in statement.names)
