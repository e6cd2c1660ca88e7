"""OpenNGC, objects of the deep sky: about 14,000 galaxies, nebulae and clusters.

Read from the SQLite file inside the package `pyongc`. An object is named by its designation, with the name
people know it by where it has one: "NGC 224 Andromeda Galaxy", "IC 348".
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from kblam_engine.datasets._files import DatasetError, clean, package_file, shorten
from kblam_engine.triples import Triple

LICENCE = "CC BY-SA 4.0 (OpenNGC, by Mattia Verga), MIT (the package)"
PROVENANCE = "OpenNGC, SQLite database of the Python package pyongc, 1.2.2"
INSTALL = "pip install --no-deps pyongc==1.2.2"

# property, column, unit
_COLUMNS = (
    ("major axis", "majax", "arcmin"),
    ("minor axis", "minax", "arcmin"),
    ("position angle", "pa", "degrees"),
    ("blue magnitude", "bmag", ""),
    ("visual magnitude", "vmag", ""),
    ("infrared magnitude in the J band", "jmag", ""),
    ("infrared magnitude in the H band", "hmag", ""),
    ("infrared magnitude in the K band", "kmag", ""),
    ("surface brightness", "sbrightn", "mag/arcsec²"),
    ("Hubble type", "hubble", ""),
    ("parallax", "parallax", "mas"),
    ("proper motion in right ascension", "pmra", "mas/year"),
    ("proper motion in declination", "pmdec", "mas/year"),
    ("radial velocity", "radvel", "km/s"),
    ("redshift", "redshift", ""),
    ("central star", "cstarnames", ""),
    ("blue magnitude of the central star", "cstarbmag", ""),
    ("visual magnitude of the central star", "cstarvmag", ""),
    ("common names", "commonnames", ""),
    ("remark of NED", "nednotes", ""),
    ("remark of OpenNGC", "ongcnotes", ""),
)
_LISTS = {"cstarnames", "commonnames"}
_CATALOGUES = {
    "2MASX": "2MASX designation",
    "ESO": "ESO number",
    "IRAS": "IRAS designation",
    "MCG": "MCG number",
    "PGC": "PGC number",
    "UGC": "UGC number",
}
_CONSTELLATIONS = {
    pair.split(":")[0]: pair.split(":")[1]
    for pair in (
        "And:Andromeda;Ant:Antlia;Aps:Apus;Aqr:Aquarius;Aql:Aquila;Ara:Ara;Ari:Aries;Aur:Auriga;Boo:Boötes;"
        "Cae:Caelum;Cam:Camelopardalis;Cnc:Cancer;CVn:Canes Venatici;CMa:Canis Major;CMi:Canis Minor;"
        "Cap:Capricornus;Car:Carina;Cas:Cassiopeia;Cen:Centaurus;Cep:Cepheus;Cet:Cetus;Cha:Chamaeleon;"
        "Cir:Circinus;Col:Columba;Com:Coma Berenices;CrA:Corona Australis;CrB:Corona Borealis;Crv:Corvus;"
        "Crt:Crater;Cru:Crux;Cyg:Cygnus;Del:Delphinus;Dor:Dorado;Dra:Draco;Equ:Equuleus;Eri:Eridanus;"
        "For:Fornax;Gem:Gemini;Gru:Grus;Her:Hercules;Hor:Horologium;Hya:Hydra;Hyi:Hydrus;Ind:Indus;"
        "Lac:Lacerta;Leo:Leo;LMi:Leo Minor;Lep:Lepus;Lib:Libra;Lup:Lupus;Lyn:Lynx;Lyr:Lyra;Men:Mensa;"
        "Mic:Microscopium;Mon:Monoceros;Mus:Musca;Nor:Norma;Oct:Octans;Oph:Ophiuchus;Ori:Orion;Pav:Pavo;"
        "Peg:Pegasus;Per:Perseus;Phe:Phoenix;Pic:Pictor;Psc:Pisces;PsA:Piscis Austrinus;Pup:Puppis;"
        "Pyx:Pyxis;Ret:Reticulum;Sge:Sagitta;Sgr:Sagittarius;Sco:Scorpius;Scl:Sculptor;Sct:Scutum;"
        "Ser:Serpens;Se1:Serpens;Se2:Serpens;Sex:Sextans;Tau:Taurus;Tel:Telescopium;Tri:Triangulum;"
        "TrA:Triangulum Australe;Tuc:Tucana;UMa:Ursa Major;UMi:Ursa Minor;Vel:Vela;Vir:Virgo;Vol:Volans;"
        "Vul:Vulpecula"
    ).split(";")
}


def triples() -> Iterator[Triple]:
    """Yield the triples of all objects, in the order of the catalogues.

    Raises:
        MissingDependencyError: pyongc is not installed.
        DatasetError: Its database does not have the expected tables.
    """
    yield from _read(package_file("pyongc", "pyongc/ongc.db", install=INSTALL))


def _read(path: Path) -> Iterator[Triple]:
    try:
        # immutable: site-packages may be read-only, where SQLite could not even create its lock file.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            db.row_factory = sqlite3.Row
            for row in db.execute(
                "SELECT objects.*, typedesc FROM objects JOIN objTypes USING (type) ORDER BY id"
            ):
                designation = _designation(row["name"])
                known_as = (row["commonnames"] or "").split(",")[0].strip()
                name = f"{designation} {known_as}".strip()
                for property_name, value in _object(row):
                    if value:
                        yield Triple(name, property_name, value)
    except sqlite3.Error as error:
        raise DatasetError(f"Expected the tables of pyongc 1.2 in {path}; got: {error}") from error


def _object(row: sqlite3.Row) -> Iterator[tuple[str, str]]:
    # The other number of a thing that was found twice; the rest of the columns is then empty.
    same = [_designation(f"{c.upper()}{n}") for c in ("ngc", "ic") for n in (row[c] or "").split(",") if n]
    yield "same object as", ", ".join(same) if row["type"] == "Dup" else ""
    if row["type"] == "Dup":
        return
    yield "object type", _sentence_case(row["typedesc"])
    yield "constellation", _CONSTELLATIONS.get(row["const"] or "", "")
    if row["ra"] is not None and row["dec"] is not None:
        yield "right ascension", _hours(row["ra"])
        yield "declination", _degrees(row["dec"])
    yield "Messier number", f"M {int(row['messier'])}" if row["messier"] else ""
    for property_name, column, unit in _COLUMNS:
        value = row[column]
        if value is None or value == "":
            continue
        text = f"{value:.10g}" if isinstance(value, float) else str(value)
        if column in _LISTS:
            text = ", ".join(text.split(","))
        text = _designation(shorten(clean(text)))
        yield property_name, f"{text} {unit}".rstrip()
    by_catalogue: dict[str, list[str]] = {}
    for identifier in (row["identifiers"] or "").split(","):
        catalogue, _, number = identifier.strip().partition(" ")
        if catalogue in _CATALOGUES and number:
            by_catalogue.setdefault(catalogue, []).append(_designation(f"{catalogue} {number.strip()}"))
    for catalogue, found in by_catalogue.items():
        yield _CATALOGUES[catalogue], found[0] if len(found) == 1 else ""


def _designation(name: str) -> str:
    """Write designations as people do: "NGC0224" -> "NGC 224"."""
    return re.sub(r"\b(NGC|IC|Mel|UGC|PGC|Cl|HCG|B|C|M|H) ?0*(?=\d)", r"\1 ", name)


def _sentence_case(text: str) -> str:
    return text if text.startswith("HII") else text.lower()


def _hours(angle: float) -> str:
    seconds = round(math.degrees(angle) % 360 * 240, 1)
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min {seconds % 60:.1f} s"


def _degrees(angle: float) -> str:
    seconds = round(abs(math.degrees(angle)) * 3600)
    return f"{'-' if angle < 0 else '+'}{seconds // 3600}° {seconds % 3600 // 60}′ {seconds % 60}″"
