"""Each converter on a small invented file in its source's format: no package needed."""

from __future__ import annotations

import gzip
import sqlite3
import string
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kblam_engine.datasets import _apt, _files, debian, foldoc, gene_ontology, geonames, iso_codes, openngc
from kblam_engine.errors import MissingDependencyError
from kblam_engine.triples import Triple

SAMPLES = Path(__file__).parent / "dataset_samples"
DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"

Found = dict[tuple[str, str], str]


def found(triples: list[Triple]) -> Found:
    table = {(t.name, t.property): t.value for t in triples}
    assert len(table) == len(triples)
    return table


def database(name: str, folder: Path) -> Path:
    path = folder / f"{name}.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript((SAMPLES / f"{name}.sql").read_text(encoding="utf-8"))
    return path


def base64(number: int) -> str:
    digits = DIGITS[number % 64]
    while number := number // 64:
        digits = DIGITS[number % 64] + digits
    return digits


def dictionary(folder: Path) -> Path:
    """Write the articles as dictfmt does: one text, an index of headwords with offset and length."""
    data, index = b"", ["00databaseurl\tA\tB"]
    for article in (SAMPLES / "foldoc.txt").read_bytes().split(b"%%%\n"):
        place = f"{base64(len(data))}\t{base64(len(article))}"
        heads = article.decode().split("\n\n")[0].splitlines()
        index += [f"{head.lower()}\t{place}" for head in heads]
        data += article
    (folder / "foldoc.dict.dz").write_bytes(gzip.compress(data))
    (folder / "foldoc.index").write_text("\n".join(index), encoding="utf-8")
    return folder


def read_samples_of(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Found:
    folder = SAMPLES / module.__name__.rpartition(".")[2]
    monkeypatch.setattr(module, "package_file", lambda _, relative, install: folder / Path(relative).name)
    return found(list(module.triples()))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Found:
    monkeypatch.setattr(debian, "_dump", lambda: (SAMPLES / "debian.txt").read_text(encoding="utf-8"))
    return found(list(debian.triples()))


def test_debian_reads_fields_relations_and_tags(packages: Found) -> None:
    assert packages == {
        ("abacus", "description"): "counts beads",
        ("abacus", "version"): "2.1-3",
        ("abacus", "section"): "math",
        ("abacus", "source package"): "abacus-suite",
        ("abacus", "installed size"): "2859 KiB",
        ("abacus", "required packages"): "libbead2, python3, wm or wm-session",
        ("abacus", "implementation language"): "c",
        ("abacus", "development topic"): "python",
        ("abacus", "supported hardware"): "storage (cd)",
        ("abacus", "role"): "program",
        ("abacus", "user interface"): "commandline",
    }


def test_debian_without_apt_or_lists_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda _: None)
    with pytest.raises(MissingDependencyError, match="apt-cache is not on this machine.*run: apt-get update"):
        list(debian.triples())
    monkeypatch.setattr(debian, "_dump", lambda: "Package: only-here\nVersion: 1\nSection: misc\n")
    with pytest.raises(MissingDependencyError, match="no package lists.*Run: apt-get update"):
        list(debian.triples())


def test_foldoc_reads_headwords_fields_and_prose(tmp_path: Path) -> None:
    table = found(list(foldoc._read(dictionary(tmp_path))))
    name = "Widget Transfer Protocol"
    assert {p: v for (n, p), v in table.items() if n == name} == {
        "abbreviation": "WTP",
        "other names": "widgeting",
        "field": "protocol",
        "definition": "A widget protocol of the Sprocket Group.",
        "details": "It moves widgets. Sprockets are not moved.",
        "opposite": "Standing Still",
        "related terms": "widget, gadget",
        "date of the article": "1999-12-31",
    }
    assert table["gadget (hardware)", "meaning"] == "Generic Appliance"
    assert table["gadget (jargon)", "pronunciation"] == "gad'jit"
    assert table["gadget (jargon)", "origin"] == 'From the French "gâchette"'
    assert table["gadget (jargon)", "definition"] == "Something small that does something."
    assert table["doodad (2)", "definition"] == "A thing of another name."
    assert not any(n == "listing only" for n, _ in table)


def test_foldoc_refuses_what_is_no_dictionary(tmp_path: Path) -> None:
    (tmp_path / "foldoc.index").write_text("word\tA\tB\n")
    (tmp_path / "foldoc.dict.dz").write_bytes(b"not gzip")
    with pytest.raises(_files.DatasetError, match="foldoc.dict.dz"):
        list(foldoc._read(tmp_path))
    (tmp_path / "foldoc.dict.dz").write_bytes(gzip.compress(b"word"))
    (tmp_path / "foldoc.index").write_text("word\tno number!\n")
    with pytest.raises(_files.DatasetError, match="foldoc.index"):
        list(foldoc._read(tmp_path))


def test_gene_ontology_reads_terms_relations_and_synonyms(tmp_path: Path) -> None:
    table = found(list(gene_ontology._read(database("gene_ontology", tmp_path))))
    assert {p: v for (n, p), v in table.items() if n == "bead threading"} == {
        "GO identifier": "GO:0000001",
        "aspect": "biological process",
        "definition": "Any process by which a bead gets onto a thread.",
        "part of": "bead, 2-holed",
        "synonyms": "bead stringing; stringing",
    }
    assert table["positive regulation of bead threading", "promoted process"] == "bead threading"
    assert table["positive regulation of bead threading", "regulated process"] == "bead threading"
    assert ("positive regulation of bead threading", "synonyms") not in table
    assert table["Bead threading (molecular function)", "aspect"] == "molecular function"
    assert not any(name == "all" for name, _ in table)


def test_geonames_tells_cities_of_one_name_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_samples_of(geonames, monkeypatch)
    assert table["Springfield (Aland)", "population"] == "20,000"
    assert table["Springfield (Aland)", "other names"] == "Springveld, Fons"
    assert table["Springfield (Missouri)", "population"] == "30,000"
    assert table["Springfield (Missouri)", "state"] == "Missouri"
    assert table["Aland (city)", "latitude"] == "7 degrees"
    assert ("Aland (city)", "population") not in table
    assert ("Aland (city)", "other names") not in table
    assert not any(name == "springfield (Missouri)" for name, _ in table)


def test_geonames_reads_countries_and_counties(monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_samples_of(geonames, monkeypatch)
    assert table["Aland", "area"] == "1,234 square kilometres"
    assert table["Aland", "calling code"] == "+1-7"
    assert table["Aland", "numeric country code"] == "007"
    assert table["Aland", "neighbouring countries"] == "United States"
    assert ("Aland", "FIPS country code") not in table
    assert ("United States", "population") not in table
    assert table["Bead County, Missouri", "FIPS county code"] == "29001"
    assert not any("Far" in name for name, _ in table)


def test_iso_codes_spells_out_letters_and_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_samples_of(iso_codes, monkeypatch)
    assert table["Aland (country)", "ISO 3166-1 numeric code"] == "007"
    assert table["Aland (language)", "vitality"] == "extinct"
    assert table["Aland (language)", "scope of the language code"] == "macrolanguage"
    assert table["Aland (language)", "name in an index"] == "Aland, Northern"
    assert ("Bead (language)", "scope of the language code") not in table
    assert table["Bead (currency)", "ISO 4217 code"] == "AAB"
    assert table["Old Beadland", "fate of the country"] == "divided"
    assert table["Lower North", "part of"] == table["Upper North", "part of"] == "North"
    assert table["South (Province, Aland)", "ISO 3166-2 code"] == "AA-2"
    assert table["South (Province, Aland), AA-3", "country"] == "Aland"


def test_openngc_reads_objects_as_people_write_them(tmp_path: Path) -> None:
    table = found(list(openngc._read(database("openngc", tmp_path))))
    assert {p: v for (n, p), v in table.items() if n == "NGC 7 Bead Galaxy"} == {
        "object type": "galaxy",
        "constellation": "Serpens",
        "right ascension": "3 h 49 min 11.0 s",
        "declination": "-28° 38′ 52″",
        "Messier number": "M 31",
        "major axis": "0.9 arcmin",
        "position angle": "0 degrees",
        "radial velocity": "-300 km/s",
        "redshift": "0",
        "common names": "Bead Galaxy, Round Galaxy",
        "remark of NED": "Near NGC 8, 1,500 arcsec away.",
        "PGC number": "PGC 12",
        "UGC number": "UGC 34",
    }
    assert {p: v for (n, p), v in table.items() if n == "IC 11"} == {"same object as": "NGC 7"}
    assert {p: v for (n, p), v in table.items() if n == "IC 348 NED02"} == {
        "object type": "HII Ionized region"
    }


@pytest.mark.parametrize("module", [gene_ontology, openngc])
def test_a_database_with_other_tables_is_refused(module: ModuleType, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db:
        db.execute("CREATE TABLE something (else_ TEXT)")
    with pytest.raises(_files.DatasetError, match="Expected the tables"):
        list(module._read(tmp_path / "other.sqlite"))


BEAD = _apt.DebianPackage("bead", "usr/share/bead", "beads.txt", "bead-1", "bead_1_all.deb", "", others=("index",))


class Apt:
    """apt-get and dpkg-deb, which bring two files and a third that nobody reads."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.files = {"beads.txt": "beads", "index": "b one", "notes/more.txt": "notes"}

    def __call__(self, command: list[str], folder: str, *, remedy: str) -> str:
        self.commands.append(command[0])
        if command[0] == "apt-get":
            Path(folder, "bead_2_all.deb").write_bytes(b"another version, so no checksum to compare")
        else:
            for name, text in self.files.items():
                path = Path(folder, "unpacked", BEAD.folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return ""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    made = Apt()
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path))
    monkeypatch.setattr(_apt.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(_apt, "run", made)
    return made


def test_a_debian_package_is_unpacked_into_the_cache_once(tmp_path: Path, apt: Apt) -> None:
    assert (_apt.package_folder(BEAD) / BEAD.probe).read_text() == "beads"
    assert _apt.package_folder(BEAD) == tmp_path / "datasets" / "bead-1"
    assert apt.commands == ["apt-get", "dpkg-deb"]
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["bead-1"]


def changed(path: Path) -> None:
    path.write_text("b" + path.read_text()[1:].upper())


@pytest.mark.parametrize("name", ["beads.txt", "index", "notes/more.txt", _apt.RECORD])
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_text(""), lambda path: path.write_text("{"), changed],
    ids=["gone", "empty", "cut", "changed"],
)  # fmt: skip
def test_a_damaged_cache_is_downloaded_again_once(
    name: str, damage: Callable[[Path], Any], apt: Apt, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _apt.package_folder(BEAD)
    damage(folder / name)
    assert _apt.package_folder(BEAD) == folder == _apt.package_folder(BEAD)
    trusted = name == _apt.RECORD and not (folder / name).exists()  # a folder that was copied there by hand has none
    assert apt.commands == ["apt-get", "dpkg-deb"] * (1 if trusted else 2)
    assert trusted or (f"{folder}: damaged or missing: {name}" in caplog.text and (folder / _apt.RECORD).exists())
    assert {path: (folder / path).read_text() for path in apt.files} == apt.files
    assert [path.name for path in folder.parent.iterdir()] == ["bead-1"]


def test_a_cache_without_a_record_needs_every_file(tmp_path: Path, apt: Apt) -> None:
    folder = tmp_path / "datasets" / "bead-1"
    folder.mkdir(parents=True)
    (folder / "beads.txt").write_text("my beads")
    (folder / "index").write_text("m 1")
    assert (_apt.package_folder(BEAD) / "beads.txt").read_text() == "my beads" and not apt.commands
    (folder / "index").write_text("")
    assert (_apt.package_folder(BEAD) / "index").read_text() == "b one" and len(apt.commands) == 2


def test_a_damaged_cache_that_cannot_be_downloaded_is_told(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _apt.package_folder(BEAD)
    (folder / "index").unlink()
    monkeypatch.setattr(_apt.shutil, "which", lambda tool: None)
    with pytest.raises(_files.DatasetError, match=f"bead in {folder}; .*missing: index. Remove that folder.*apt-get is not on"):
        _apt.package_folder(BEAD)
    assert (folder / "beads.txt").exists()


def test_a_package_without_the_files_is_refused(tmp_path: Path, apt: Apt) -> None:
    del apt.files["index"]
    with pytest.raises(_files.DatasetError, match="Expected index in bead_2_all.deb.*written for bead_1_all.deb"):
        _apt.package_folder(BEAD)
    assert not any((tmp_path / "datasets").iterdir())


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, apt: Apt) -> None:
    (tmp_path / "datasets").write_text("a file")
    with pytest.raises(_files.DatasetError, match="Cannot write .*KBLAM_CACHE names another folder"):
        _apt.package_folder(BEAD)


@pytest.mark.parametrize("cut", ["foldoc.index", "foldoc.dict.dz", "a line of foldoc.index"])
def test_a_cut_dictionary_is_told_with_the_folder(cut: str, tmp_path: Path) -> None:
    path = dictionary(tmp_path) / cut.rpartition(" ")[2]
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n")] if cut.startswith("a line") else content[:-3])
    with pytest.raises(_files.DatasetError, match=f"Remove the folder {tmp_path}"):
        list(foldoc._read(tmp_path))


def test_a_cut_ontology_is_told_with_the_folder(tmp_path: Path) -> None:
    path = database("gene_ontology", tmp_path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(_files.DatasetError, match=f"Remove the folder {tmp_path}"):
        list(gene_ontology._read(path))
