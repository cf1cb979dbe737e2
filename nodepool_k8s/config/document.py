"""A YAML file as data, with the line of every key and item.

Composes from the parser's events itself: PyYAML's own composer recurses in C without a
limit, keeps the last of two equal keys without a word, and forgets lines on the way to data.
Keys are text as it is written (``on`` stays ``on``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from nodepool_k8s.config.problems import InvalidValue, Path, UnknownKey, kind_of, path_text, shown
from nodepool_k8s.config.substitution import VARIABLE, Substituted, substitute
from nodepool_k8s.errors import Problem

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML built without libyaml: slower, otherwise the same
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

_MERGE = "tag:yaml.org,2002:merge"
_STR = "tag:yaml.org,2002:str"
_VALUE = "tag:yaml.org,2002:value"
_MAP = "tag:yaml.org,2002:map"
_SEQ = "tag:yaml.org,2002:seq"

_SCALARS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "timestamp"))

_MAX_DEPTH = 100
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True)
class YamlNode:
    """A value and where it stands, by index into the substituted text."""

    start: int
    end: int
    value: Any = None
    text: str | None = None
    """A scalar as it is written, so that a label's ``1.10`` does not become ``1.1``."""
    entries: dict[str, tuple[YamlNode, YamlNode]] | None = None
    items: list[YamlNode] | None = None
    done: bool = False
    inherited: dict[str, tuple[int, Path]] = field(default_factory=dict)
    """Of entries that were written elsewhere: how far away, and where."""


@dataclass(slots=True)
class Document:
    """A file's data and, for each path in it, its line and spelling.

    ``secret`` files have none of their values shown.
    """

    file: str
    source: Substituted
    root: YamlNode
    secret: bool = False
    problems: list[Problem] = field(default_factory=list)
    unset: dict[str, int] = field(default_factory=dict)
    """Variables that are used and not set, with the line of their first use."""
    _separate: set[Path] = field(default_factory=set)

    @property
    def data(self) -> Any:
        """The whole file as dicts, lists and scalars."""
        return self.root.value

    def get(self, path: Path) -> Any:
        """Return the value at ``path``, None without one."""
        node = self._node(path)
        return None if node is None else node.value

    def text(self, path: Path) -> str:
        """Return a scalar as the file writes it."""
        node = self._node(path)
        return self.source.unmark(node.text) if node and node.text is not None else ""

    def problem(self, path: Path, message: str) -> Problem:
        """Build a problem at ``path``, or at its nearest ancestor that is in the file."""
        written = self.origin(path)
        return Problem(self.file, self.line(path), path_text(self._readable_path(written)), message)

    def origin(self, path: Path) -> Path:
        """Return where what applies at ``path`` was written."""
        written: Path = ()
        for part, node in zip(path, self._parents(path), strict=True):
            inherited = node.inherited.get(part) if node and isinstance(part, str) else None
            written = inherited[1] if inherited else (*written, part)
        return written

    def distance(self, path: Path) -> int:
        """Tell how far from ``path`` its value was written: 0 there, more for what is inherited.

        Of two options that say the same, the one that stands nearer counts.
        """
        distance = 0
        for part, node in zip(path, self._parents(path), strict=True):
            inherited = node.inherited.get(part) if node and isinstance(part, str) else None
            distance = inherited[0] if inherited else distance
        return distance

    def inherit(self, path: Path, source: Path, *, distance: int) -> None:
        """Make the value written at ``source`` apply at ``path``, a key of a mapping, too."""
        node, found = self._separated(path[:-1]), self.entry(source)
        if found is None or node.entries is None:
            return
        key = str(path[-1])
        node.entries[key] = (node.entries[key][0] if key in node.entries else found[0], found[1])
        node.value[key] = found[1].value
        node.inherited[key] = (distance, source)

    def entry(self, path: Path) -> tuple[YamlNode, YamlNode] | None:
        """Return the key and the value at ``path``, which ends with a key."""
        parent = self._node(path[:-1])
        return parent.entries.get(str(path[-1])) if parent and parent.entries else None

    def respell(self, node: YamlNode, written: str, meant: str) -> None:
        """Rename an entry; a mapping must not have it under both names."""
        entries = node.entries or {}
        if meant in entries:
            own = [key for key in (meant, written) if _within(node, entries[key][0])]
            if len(own) == 2:
                self._note_twice(entries, written, meant)
            kept = entries[own[0] if own else meant]
            entries = {key: entries[key] for key in entries if key != written} | {meant: kept}
        node.entries = {meant if key == written else key: entries[key] for key in entries}
        values = {key: value.value for key, (_, value) in node.entries.items()}
        # In place: the mapping is a part of others.
        node.value.clear()
        node.value.update(values)

    def _note_twice(
        self, entries: dict[str, tuple[YamlNode, YamlNode]], written: str, meant: str
    ) -> None:
        first, second = sorted((entries[meant][0], entries[written][0]), key=lambda key: key.start)
        line = self.source.position(first.start)[0]
        names = [self.source.unmark(key.text or "") for key in (second, first)]
        message = f"found '{names[0]}' beside '{names[1]}' on line {line}, which means the same"
        self.problems.append(_problem_at(self, second.start, message))

    def _separated(self, path: Path) -> YamlNode:
        """Return the node at ``path``, as one that no other place of the file shares (by ``*``)."""
        if path in self._separate or not path:
            return self._node(path) or self.root
        parent, shared = self._separated(path[:-1]), self._node(path) or self.root
        node = replace(
            shared,
            value=copy(shared.value),
            entries=copy(shared.entries),
            items=copy(shared.items),
            inherited=dict(shared.inherited),
        )
        part = path[-1]
        if parent.items is not None and isinstance(part, int):
            parent.items[part] = node
        elif parent.entries is not None and isinstance(part, str):
            parent.entries[part] = (parent.entries[part][0], node)
        parent.value[part] = node.value
        self._separate.add(path)
        return node

    def line(self, path: Path) -> int:
        """1-based line of the key or item at ``path``, or of its nearest ancestor in the file."""
        start = self.root.start
        for key, node in self._walk(path):
            start = (key or node).start
        return self.source.position(start)[0]

    def describe(self, path: Path) -> str:
        """Describe the value at ``path``; only its kind where the value may be a secret."""
        node = self._node(path)
        if node is None:
            return "nothing"
        return kind_of(node.value) + " (not shown)" if self._hides(path) else shown(node.value)

    def describe_error(self, path: Path, error: Exception) -> str:
        """Return the message for a validator's error at ``path``."""
        if isinstance(error, UnknownKey):
            return f"{getattr(error, 'msg', '')}; {error.advice()}"
        if not isinstance(error, InvalidValue):
            return str(getattr(error, "msg", error))
        message = f"found {self._describe_subject(path, error)}, expected {error.expected}"
        if error.hint and not self._hides(path):
            message += f"; {error.hint}"
        return message + self._unset(path)

    def _describe_subject(self, path: Path, error: InvalidValue) -> str:
        if not error.of_key:
            return self.describe(path)
        return "a key (not shown)" if self.secret else f"key {shown(self._readable_path(path)[-1])}"

    def _readable_path(self, path: Path) -> Path:
        """Put the variable's name for a key that came from the environment."""
        parts = list(path)
        for place, (key, _) in enumerate(self._walk(path)):
            names = self.source.variables(key.start, key.end) if key else ()
            if names:
                parts[place] = "".join(f"%({name})" for name in names)
            elif key:
                parts[place] = self.source.unmark(key.text or "")
        return tuple(parts)

    def _unset(self, path: Path) -> str:
        names = VARIABLE.findall(self.text(path))
        return "".join(f"; the environment variable {name} is not set" for name in names)

    def _hides(self, path: Path) -> bool:
        node = self._node(path)
        if node is None or isinstance(node.value, (dict, list)) or node.value is None:
            return False
        substituted = bool(self.source.variables(node.start, node.end))
        return self.secret or substituted or _in_environment(path, node.value)

    def _node(self, path: Path) -> YamlNode | None:
        nodes = [self.root, *(node for _, node in self._walk(path))]
        return nodes[-1] if len(nodes) == len(path) + 1 else None

    def _parents(self, path: Path) -> Iterator[YamlNode | None]:
        """For each part of ``path``, what it is a part of."""
        nodes = [self.root, *(node for _, node in self._walk(path))]
        for place in range(len(path)):
            yield nodes[place] if place < len(nodes) else None

    def _walk(self, path: Path) -> Iterator[tuple[YamlNode | None, YamlNode]]:
        node = self.root
        for part in path:
            key: YamlNode | None = None
            if isinstance(part, int):
                if node.items is None or part >= len(node.items):
                    return
                node = node.items[part]
            elif node.entries is not None and part in node.entries:
                key, node = node.entries[part]
            else:
                return
            yield key, node


def _within(node: YamlNode, key: YamlNode) -> bool:
    """Tell a mapping's own keys from those that ``<<`` brought."""
    return node.start <= key.start < node.end


def _in_environment(path: Path, value: object) -> bool:
    """Tell whether a place is inside ``env``, where values tend to be passwords."""
    if "env" not in path:
        return False
    return path[-1] != "name" or "=" in str(value)


def compose(file: str, text: str, environ: Mapping[str, str], *, secret: bool = False) -> Document:
    """Read a YAML text; its errors are in the document's ``problems``."""
    source = substitute(text, environ)
    document = Document(file, source, YamlNode(0, 0, done=True), secret)
    strange = _UNPRINTABLE.search(source.text)
    if strange:
        message = f"YAML cannot hold the character U+{ord(strange[0]):04X}"
        document.problems.append(_problem_at(document, strange.start(), message))
        return document
    composer = _Composer(document)
    try:
        document.root = composer.document()
    except _Stop:
        pass
    except yaml.YAMLError as error:
        document.problems.append(_yaml_problem(document, error))
    return document


def _problem_at(document: Document, index: int, message: str) -> Problem:
    line, column = document.source.position(index)
    return Problem(document.file, line, "", f"column {column}: {message}")


def _yaml_problem(document: Document, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    words = (getattr(error, "context", None), getattr(error, "problem", None))
    message = "is not YAML: " + (", ".join(word for word in words if word) or "unreadable")
    if document.secret or document.source.spans:
        message = re.sub(r"""(['"])(?!<)[^'"]{4,}\1""", "(not shown)", message)
    return _problem_at(document, mark.index if mark else 0, document.source.unmark(message))


class _Stop(Exception):
    """The rest of the file cannot be parsed; the problem has been added."""


class _Composer:
    """Turns the parser's events into nodes."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._source = document.source
        self._loader = Loader(document.source.text)
        self._anchors: dict[str, YamlNode] = {}
        self._depth = 0
        # What PyYAML's stubs know too little about.
        self._get: Callable[[], Any] = self._loader.get_event
        self._peek: Callable[[], Any] = self._loader.peek_event
        self._resolve: Callable[..., str] = self._loader.resolve

    def document(self) -> YamlNode:
        """Compose the only document of the stream; an empty stream is a null."""
        loader = self._loader
        loader.get_event()
        if loader.check_event(yaml.StreamEndEvent):
            return YamlNode(0, 0, done=True)
        loader.get_event()
        root = self._next()
        loader.get_event()
        if not loader.check_event(yaml.StreamEndEvent):
            self._note(self._peek().start_mark.index, "a second document starts here ('---')")
        return root

    def _next(self) -> YamlNode:
        event = self._get()
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        node = YamlNode(event.start_mark.index, event.end_mark.index)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, node)
        else:
            self._collection(event, node)
        node.done = True
        return node

    def _alias(self, event: Any) -> YamlNode:
        node = self._anchors.get(event.anchor)
        index = event.start_mark.index
        if node is None:
            self._note(index, "an alias (*) without its anchor (&)")
        elif not node.done:
            self._note(index, "an alias (*) to what it is itself a part of")
        else:
            return node
        return YamlNode(index, event.end_mark.index, done=True)

    def _scalar(self, event: Any, node: YamlNode) -> None:
        node.text = event.value
        self._note_unset(node)
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag in (_STR, _VALUE, _MERGE):
            node.value = self._source.unmark(event.value)
            return
        scalar = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        try:
            node.value = self._loader.construct_object(scalar)
        except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError):
            kind = tag.rpartition(":")[2] if tag in _SCALARS else "type"
            self._note(node.start, f"a scalar that is not the {kind} it is meant to be; quote it")

    def _note_unset(self, node: YamlNode) -> None:
        if self._source.marker not in (node.text or ""):
            return
        line = self._source.position(node.start)[0]
        for name in VARIABLE.findall(self._source.unmark(node.text or "")):
            self._document.unset.setdefault(name, line)

    def _collection(self, event: Any, node: YamlNode) -> None:
        if event.tag not in (None, "!", _MAP, _SEQ):
            self._note(node.start, "a tag (!) that means nothing here; leave it out")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._note(node.start, f"more than {_MAX_DEPTH} levels inside one another")
            raise _Stop
        if isinstance(event, yaml.MappingStartEvent):
            self._mapping(node)
        else:
            self._sequence(node)
        self._depth -= 1

    def _sequence(self, node: YamlNode) -> None:
        node.items = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            node.items.append(self._next())
        node.end = self._get().end_mark.index
        node.value = [item.value for item in node.items]

    def _mapping(self, node: YamlNode) -> None:
        entries: dict[str, tuple[YamlNode, YamlNode]] = {}
        merged: list[YamlNode] = []
        while not self._loader.check_event(yaml.MappingEndEvent):
            merges = _is_merge(self._peek())
            key, value = self._next(), self._next()
            if merges:
                merged.append(value)
            else:
                self._enter(entries, key, value)
        node.end = self._get().end_mark.index
        node.entries = self._merge(merged) | entries
        node.value = {name: value.value for name, (_, value) in node.entries.items()}

    def _enter(
        self, entries: dict[str, tuple[YamlNode, YamlNode]], key: YamlNode, value: YamlNode
    ) -> None:
        if key.text is None:
            self._note(key.start, "a list or a mapping as a key; a key is text (quote '{' and '[')")
            return
        name = self._source.unmark(key.text)
        if name in entries:
            first = self._source.position(entries[name][0].start)[0]
            said = "(not shown)" if self._conceals(key) else f"'{name}'"
            self._note(key.start, f"key {said} is here twice, first on line {first}; remove one")
        entries[name] = (key, value)

    def _conceals(self, key: YamlNode) -> bool:
        return self._document.secret or bool(self._source.variables(key.start, key.end))

    def _merge(self, merged: list[YamlNode]) -> dict[str, tuple[YamlNode, YamlNode]]:
        entries: dict[str, tuple[YamlNode, YamlNode]] = {}
        for node in merged:
            for source in node.items if node.items is not None else [node]:
                if source.entries is None:
                    self._note(source.start, "'<<' merges mappings, and this is none")
                else:
                    # YAML's rule: of several mappings the earlier one wins.
                    entries = source.entries | entries
        return entries

    def _note(self, index: int, message: str) -> None:
        self._document.problems.append(_problem_at(self._document, index, f"found {message}"))


def _is_merge(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
