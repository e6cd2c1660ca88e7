"""JSON files: a list of triples or records, one record, or an object of objects by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kblam_engine.errors import ConfigurationError
from kblam_engine.sources.graphs import GRAPH_OPTIONS
from kblam_engine.sources.records import RecordSource, listed, long_columns
from kblam_engine.sources.source import read_text
from kblam_engine.sources.tables import DECODER, describe_json_error, parse_json
from kblam_engine.sources.values import as_text, kind_of, name_key
from kblam_engine.triples import Triple

_SPACE = re.compile(r"[ \t\n\r]*")
_ENVELOPES = frozenset("body content data payload response result results".split())
"""Keys that say nothing but that here comes what was asked for, as services write it."""


class JSONFile(RecordSource):
    """A JSON file of triples or records.

    Read are a list of objects, one object with a name, an object of objects ``{"Acme": {"founder": ...}}``, and
    any of these further inside (`records`); so is the node-link form of a graph. Numbers stay as they are written. A list of texts becomes one value,
    joined by commas; an object inside becomes properties of its own ("address city"), or, if it has a name, a
    thing of its own.

    Args:
        path: the file.
        records: keys on the way to the records, joined by dots, such as "data.items"; default the whole file, or
            the only list of objects in its outer object, also under a key such as "data" or "response".
        options: `name_column`, `properties`, `uri`, `max_mb` of every source of records; for a graph those of ``GraphFile``.
    """

    extractor = "json"
    reads_exports = True
    more_options = GRAPH_OPTIONS

    def __init__(self, path: Any, *, records: str | None = None, **options: Any) -> None:
        self._graph_options = {name: options.pop(name) for name in sorted(GRAPH_OPTIONS) if name in options}
        super().__init__(path, **options)
        if records is not None and not all(records.split(".")):
            raise ConfigurationError(f"records: expected keys joined by dots, got {records!r}")
        self.records = records

    def _read(self) -> Iterator[Triple]:
        text = read_text(self.path)
        if self.records is None and text.lstrip()[:1] == "[" and not self._graph_options:
            yield from self._from_items(self._items(text))
            return
        try:
            data = parse_json(text)
        except (ValueError, RecursionError) as error:
            line = getattr(error, "lineno", 0)
            raise self.error(line, describe_json_error(error)) from None
        if self.records is None and isinstance(data, Mapping) and _is_graph(data):
            yield from self._graph()
        elif self._graph_options:
            told = ", ".join(self._graph_options)
            raise self.error(0, f"expected a graph, an object with nodes and links, for the options {told}; got other JSON")
        else:
            yield from self._from_items((0, item) for item in self._records(data))

    def _graph(self) -> Iterator[Triple]:
        from kblam_engine.sources.graph_files import GraphFile

        graph = GraphFile(self.path, uri=self.uri, max_mb=self.max_mb, **self._graph_options)
        yield from graph
        self.skipped.update(graph.skipped)

    def _items(self, text: str) -> Iterator[tuple[int, Any]]:
        """Yield line and value of each element of the outer list."""
        place, line, counted = _next(text, text.index("[") + 1), 1, 0
        while text[place : place + 1] not in ("]", ""):
            line, counted = line + text.count("\n", counted, place), place
            try:
                value, end = DECODER.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                raise self.error(getattr(error, "lineno", line), describe_json_error(error)) from None
            yield line, value
            place = _next(text, end)
            if text[place : place + 1] == ",":
                place = _next(text, place + 1)
                if text[place : place + 1] != "]":
                    continue
            elif text[place : place + 1] == "]":
                break
            raise self.error(text.count("\n", 0, place) + 1, "not JSON: expected a comma and a value, or ]")
        if text[place : place + 1] != "]" or _next(text, place + 1) != len(text):
            raise self.error(text.count("\n", 0, place) + 1, "not JSON: expected ] and the end of the file")

    def _records(self, data: Any) -> list[Any]:
        """Return the records of a file whose outermost value is no list, or that are further inside."""
        for key in self.records.split(".") if self.records else ():
            if not isinstance(data, Mapping) or key not in data:
                there = listed(data) if isinstance(data, Mapping) else "no keys"
                raise self.error(0, f"records: expected the key {key!r}, got {there}")
            data = data[key]
        if isinstance(data, list):
            return data
        if not isinstance(data, Mapping):
            raise self.error(0, f"expected a list or an object of records, got {kind_of(data)}")
        found = self._inner(data)
        if found is None:
            raise self.error(
                0,
                "expected records (a list of objects, an object with a name, or objects by their names), got an object with "
                f"{f'the keys {listed(data)}' if data else 'no keys'}; say where they are with records=, or what names one "
                "with name_column=",
            )
        return found

    def _inner(self, data: Mapping[str, Any]) -> list[Any] | None:
        """Return the records that an object is or holds, None if it is not clear which."""
        if long_columns(data) or self.name_column in data or as_text(data.get(name_key(data) or "")):
            return [data]
        inside = _envelope(data)
        if inside is not None and (found := self._inner(inside) if len(data) == 1 else _only_list(inside)):
            return found
        if data and all(isinstance(value, Mapping) for value in data.values()):
            key = self.name_column or "name"
            return [{key: name, **{k: v for k, v in value.items() if k != key}} for name, value in data.items()]
        return _only_list(data)

    def _from_items(self, items: Iterator[tuple[int, Any]]) -> Iterator[Triple]:
        for number, (line, item) in enumerate(items, start=1):
            if not isinstance(item, Mapping):
                place = "" if line else f" as number {number} of the list"
                raise self.error(line, f"expected an object, got {kind_of(item)}{place}")
            yield from self.from_record(item, line)


def _envelope(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the object under the one key that only announces it."""
    inside = [value for key, value in data.items() if key in _ENVELOPES and isinstance(value, Mapping)]
    return inside[0] if len(inside) == 1 else None


def _only_list(data: Mapping[str, Any]) -> list[Any] | None:
    """Return the only list of objects in an object, or else in what it announces."""
    lists = [v for v in data.values() if isinstance(v, list) and v and all(isinstance(x, Mapping) for x in v)]
    if len(lists) == 1:
        return lists[0]
    inside = None if lists else _envelope(data)
    return None if inside is None else _only_list(inside)


def _is_graph(data: Mapping[str, Any]) -> bool:
    """Say whether this is the node-link form of a graph."""
    return isinstance(data.get("nodes"), list) and any(isinstance(data.get(key), list) for key in ("links", "edges"))


def _next(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place
