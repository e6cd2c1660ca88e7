"""The chemical elements: about 45 properties of each of the 118.

Read from the SQLite file inside the package `mendeleev`. Left out: colour codes, the second and later of
several competing scales for one quantity, uncertainties, and columns with almost the same value everywhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal

from kblam_engine.datasets._files import DatasetError, clean, package_file, shorten
from kblam_engine.triples import Triple

LICENCE = "MIT (the package mendeleev and its data)"
PROVENANCE = "SQLite database of the Python package mendeleev, 1.3.0"
INSTALL = "pip install --no-deps mendeleev==1.3.0"

# property name, column of the table `elements`, unit
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("symbol", "symbol", ""),
    ("atomic number", "atomic_number", ""),
    ("atomic weight", "atomic_weight", "u"),
    ("period", "period", ""),
    ("group", "group_id", ""),
    ("electron configuration", "electronic_configuration", ""),
    ("density", "density", "g/cm³"),
    ("atomic radius", "atomic_radius", "pm"),
    ("covalent radius", "covalent_radius_cordero", "pm"),
    ("van der Waals radius", "vdw_radius", "pm"),
    ("metallic radius", "metallic_radius_c12", "pm"),
    ("electronegativity", "en_pauling", "on the Pauling scale"),
    ("electron affinity", "electron_affinity", "eV"),
    ("dipole polarizability", "dipole_polarizability", "cubic bohr"),
    ("proton affinity", "proton_affinity", "kJ/mol"),
    ("gas basicity", "gas_basicity", "kJ/mol"),
    ("heat of vaporization", "evaporation_heat", "kJ/mol"),
    ("heat of fusion", "fusion_heat", "kJ/mol"),
    ("heat of formation", "heat_of_formation", "kJ/mol"),
    ("specific heat capacity", "specific_heat_capacity", "J/(g K)"),
    ("molar heat capacity", "molar_heat_capacity", "J/(mol K)"),
    ("thermal conductivity", "thermal_conductivity", "W/(m K)"),
    ("lattice constant", "lattice_constant", "angstrom"),
    ("abundance in the Earth's crust", "abundance_crust", "mg/kg"),
    ("abundance in sea water", "abundance_sea", "mg/L"),
    ("CAS number", "cas", ""),
    ("discoverer", "discoverers", ""),
    ("year of discovery", "discovery_year", ""),
    ("place of discovery", "discovery_location", ""),
    ("origin of the name", "name_origin", ""),
    ("natural sources", "sources", ""),
    ("uses", "uses", ""),
    ("description", "description", ""),
    ("price", "price_per_kg", "US dollars per kg"),
    ("top producers", "top_3_producers", ""),
    ("largest reserve holders", "top_3_reserve_holders", ""),
    ("share of the top producing country", "production_concentration", "%"),
    ("relative supply risk", "relative_supply_risk", "on a scale from 1 to 10"),
    ("recycling rate", "recycling_rate", "%"),
    ("Goldschmidt class", "goldschmidt_class", ""),
    ("geochemical class", "geochemical_class", ""),
)
_LATTICES = {
    "BCC": "body-centered cubic",
    "CUB": "cubic",
    "DIA": "diamond cubic",
    "FCC": "face-centered cubic",
    "HEX": "hexagonal",
    "MCL": "monoclinic",
    "ORC": "orthorhombic",
    "RHL": "rhombohedral",
    "SC": "simple cubic",
    "TET": "tetragonal",
}
_SPELLING = {"litophile": "lithophile", "Kyrgzstan": "Kyrgyzstan"}  # mistakes in the source
_PHASES = (
    ("melting point", "melting_point", "K"),
    ("boiling point", "boiling_point", "K"),
    ("critical temperature", "critical_temperature", "K"),
    ("critical pressure", "critical_pressure", "MPa"),
    ("triple point temperature", "triple_point_temperature", "K"),
)


def triples() -> Iterator[Triple]:
    """Yield the triples of all elements, in the order of their atomic numbers.

    Raises:
        MissingDependencyError: mendeleev is not installed.
        DatasetError: Its database does not have the expected tables.
    """
    path = package_file("mendeleev", "mendeleev/elements.db", install=INSTALL)
    try:
        # immutable: site-packages may be read-only, where SQLite could not even create its lock file.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            db.row_factory = sqlite3.Row
            for row in db.execute(
                "SELECT elements.*, series.name AS series FROM elements "
                "JOIN series ON series.id = elements.series_id ORDER BY atomic_number"
            ):
                for property_name, value in _element(db, row):
                    yield Triple(row["name"], property_name, value)
    except sqlite3.Error as error:
        raise DatasetError(f"Expected the tables of mendeleev 1.3.0 in {path}; got: {error}") from error


def _element(db: sqlite3.Connection, row: sqlite3.Row) -> Iterator[tuple[str, str]]:
    for property_name, column, unit in _COLUMNS:
        if (value := _text(row[column], unit)) and value != "Unknown":
            yield property_name, value
    yield "category", row["series"].lower().removesuffix("s")
    yield "block", f"{row['block']}-block"
    if row["lattice_structure"]:
        yield "crystal structure", _LATTICES.get(row["lattice_structure"], row["lattice_structure"])
    number = (row["atomic_number"],)
    yield from _phases(db, number)
    for (energy,) in db.execute(
        "SELECT ionization_energy FROM ionizationenergies WHERE atomic_number = ? AND ion_charge = 0", number
    ):
        if energy:
            yield "first ionization energy", _text(energy, "eV")
    states = db.execute(
        "SELECT DISTINCT oxidation_state FROM oxidationstates "
        "WHERE atomic_number = ? AND category = 'main' ORDER BY oxidation_state",
        number,
    ).fetchall()
    if states:
        yield "common oxidation states", ", ".join(f"{state:+d}" if state else "0" for (state,) in states)
    isotope = db.execute(
        "SELECT mass_number, abundance FROM isotopes WHERE atomic_number = ? AND abundance > 0 "
        "ORDER BY abundance DESC LIMIT 1",
        number,
    ).fetchone()
    if isotope:
        yield "most abundant isotope", f"{row['name']}-{isotope[0]} ({_number(isotope[1])}%)"


def _phases(db: sqlite3.Connection, number: tuple[int]) -> Iterator[tuple[str, str]]:
    """Put the values of several allotropes into one value: "317.3 K (white), 852.35 K (red)"."""
    forms = db.execute(
        "SELECT * FROM phasetransitions WHERE atomic_number = ? ORDER BY allotrope", number
    ).fetchall()
    for property_name, column, unit in _PHASES:
        values: dict[str, str] = {}
        for form in forms:
            # Where `is_transition` is set, the "melting point" is the change to another solid form.
            if form[column] is None or (column == "melting_point" and form["is_transition"]):
                continue
            notes = [form["allotrope"]] if form["allotrope"] else []
            if form["is_sublimation_point"] and column == "boiling_point":
                notes.append("sublimes")
            values.setdefault(_text(form[column], unit), ", ".join(notes))
        if len(values) == 1 and len(forms) > 1 and "sublimes" not in "".join(values.values()):
            values = dict.fromkeys(values, "")
        if values:
            yield property_name, ", ".join(f"{v} ({note})" if note else v for v, note in values.items())


def _text(value: object, unit: str) -> str:
    if value is None:
        return ""
    text = _number(value) if isinstance(value, float) else shorten(clean(str(value)))
    for wrong, right in _SPELLING.items():
        text = text.replace(wrong, right)
    # "1) China 2) Chile" -> "China, Chile"
    if text.startswith("1) "):
        text = ", ".join(
            part.strip() for part in text.replace("2)", "1)").replace("3)", "1)").split("1)")[1:]
        )
    return f"{text}{unit}" if unit == "%" else f"{text} {unit}".rstrip()


def _number(value: float) -> str:
    """Write a number without the noise of binary fractions: 115.99999999999999 -> 116, 3e-05 -> 0.00003."""
    text = format(Decimal(f"{value:.10g}"), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
