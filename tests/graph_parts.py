"""A small graph for tests, and how its triples are compared."""

ACME = [
    ("Acme", "foundedBy", "Lena Hoffmann"),
    ("Acme", "foundedBy", "Bo Quin"),
    ("Acme", "headquartered_in", "Ulm"),
    ("Acme", "acquired", "Orca Labs"),
    ("Orca Labs", "foundedBy", "Ana Silva"),
    ("Orca Labs", "located in", "Porto"),
    ("Lena Hoffmann", "born_in", "Ulm"),
    ("Ana Silva", "works-for", "Acme"),
]


def parts(triples):
    return {(t.name, t.property, t.value) for t in triples}
