"""RDF as a source: names from labels, one language, typed values, blank nodes as values."""

import pytest

from kblam_engine.errors import ConfigurationError, ImportFileError
from kblam_engine.sources import open_source

TURTLE = """\
@prefix : <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix schema: <https://schema.org/> .

:acme rdfs:label "Acme Robotics"@en, "Acme Robotik"@de ;
    a :RobotMaker ;
    :foundedBy :Lena_Hoffmann ;
    :foundingDate "2014-03-01"^^xsd:date ;
    :revenue 12.50 , "7"^^xsd:integer ;
    :motto "Roboter für alle"@de, "Robots for all"@en-GB ;
    :slogan "Nur auf Deutsch"@de , "Seulement"@fr ;
    :address [ :street "Main St. 1" ; :city :berlin ] ;
    :colours ( "red" "blue" ) ;
    :founder "Lena", "Tom" ;
    :logo "AAAA"^^xsd:base64Binary .
:foundedBy rdfs:label "founder"@en .
:berlin schema:name "Berlin" .
:springfield1 rdfs:label "Springfield" ; :state "Illinois" .
:springfield2 rdfs:label "Springfield" ; :state "Ohio" .
[] rdfs:label "Orca 2" ; :payload "80 kg" .
[] :payload "nobody's" .
_:a :next _:b . _:b :next _:a .
:loop :goes _:a .
"""


@pytest.fixture
def turtle(tmp_path):
    path = tmp_path / "acme.ttl"
    path.write_text(TURTLE, "utf-8")
    return path


def parts(source):
    return [(t.name, t.property, t.value) for t in source]


def test_turtle(turtle):
    source = open_source(turtle)
    found = parts(source)
    assert found == [
        ("Acme Robotics", "type", "RobotMaker"),
        ("Acme Robotics", "founder", "Lena Hoffmann"),
        ("Acme Robotics", "founding date", "2014-03-01"),
        ("Acme Robotics", "revenue", "12.50; 7"),
        ("Acme Robotics", "motto", "Robots for all"),
        ("Acme Robotics", "slogan", "Nur auf Deutsch"),
        ("Acme Robotics", "address", "street: Main St. 1; city: Berlin"),
        ("Acme Robotics", "colours", "red, blue"),
        ("Acme Robotics", "founder", "Lena; Tom"),
        ("Springfield", "state", "Illinois"),
        ("Springfield (springfield2)", "state", "Ohio"),
        ("Orca 2", "payload", "80 kg"),
    ]
    assert source.skipped["binary value"] == 1 and source.skipped["text in another language"] == 3
    assert source.skipped["blank node without a name"] == 1
    assert source.skipped["blank node that says nothing or leads in circles"] == 1


def test_what_is_kept_beside_a_triple(turtle):
    triples = {t.property: t for t in open_source(turtle, uri="https://example.org/acme.ttl")}
    assert triples["founding date"].metadata == {"iri": "http://example.org/acme", "datatype": "xsd:date"}
    assert triples["motto"].metadata["language"] == "en-gb"
    assert triples["type"].metadata["value_iri"] == "http://example.org/RobotMaker"
    provenance = triples["type"].provenance
    assert (provenance.uri, provenance.extractor) == ("https://example.org/acme.ttl", "rdf")


def test_another_language(turtle):
    found = dict.fromkeys(parts(open_source(turtle, languages=["fr", "de"])))
    assert ("Acme Robotik", "slogan", "Seulement") in found and ("Acme Robotik", "motto", "Roboter für alle") in found


def test_several_values_as_triples_of_their_own(turtle):
    found = parts(open_source(turtle, several="each"))
    assert ("Acme Robotics", "revenue", "12.50") in found and ("Acme Robotics", "revenue", "7") in found


PREFIXES = """\
@prefix : <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix schema: <https://schema.org/> .
@prefix dbr: <http://dbpedia.org/resource/> .
"""


@pytest.fixture
def of(tmp_path):
    def source(text, **options):
        path = tmp_path / "x.ttl"
        path.write_text(PREFIXES + text, "utf-8")
        return open_source(path, **options)

    return source


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        (":homepage <https://www.acme.com/products/robots>", "https://www.acme.com/products/robots"),
        (":homepage <http://example.org/pages/acme>", "http://example.org/pages/acme"),
        ("rdfs:seeAlso <http://example.org/pages/acme>", "http://example.org/pages/acme"),
        (":search <http://example.org/search?q=12>", "http://example.org/search?q=12"),
        (":office <https://acme.com/>", "https://acme.com/"),
        (":plan <http://example.org/plan.pdf>", "http://example.org/plan.pdf"),
        (":partner <https://other.org/x/y>", "https://other.org/x/y"),
        (":site [ :page <https://other.org/x/y> ]", "page: https://other.org/x/y"),
        (":pages ( <https://other.org/x/y> )", "https://other.org/x/y"),
        (":seat :berlin", "berlin"),
        (":seat dbr:Berlin", "Berlin"),
        (":seat <http://example.org/city/Berlin>", "Berlin"),
        (":logo :acme_logo", "acme logo"),
        (":term <https://other.org/terms#Robot>", "Robot"),
        ("a <https://other.org/Robot>", "Robot"),
        ("rdfs:subClassOf <https://other.org/Robot>", "Robot"),
        (":mail <mailto:a@acme.com>", "a@acme.com"),
        (":homepage <https://labelled.org/x>", "Our page"),
    ],
)
def test_addresses_of_pages_are_values_and_others_names(of, statement, value):
    found = [t for t in of(f':acme {statement} . <https://labelled.org/x> rdfs:label "Our page" .') if t.name == "acme"]
    assert [t.value for t in found] == [value]


def test_blank_nodes_with_a_label_are_things(of):
    source = of(''':acme :employee [rdfs:label "Lena"; :role "CEO"; :boss [rdfs:label "Tom"; :role "chair"]] .''')
    assert set(parts(source)) == {
        ("acme", "employee", "Lena"), ("Lena", "role", "CEO"), ("Lena", "boss", "Tom"), ("Tom", "role", "chair"),
    }  # fmt: skip
    assert not source.skipped


def test_blank_nodes_with_one_label_are_one_thing_unless_they_differ(of):
    authors = ["a :Person", "a :Person", "a :City", ""]
    text = "\n".join(f':a{i} :author [rdfs:label "Lena"; {said}] .' for i, said in enumerate(authors))
    source = of(text)
    authors = [value for _, prop, value in parts(source) if prop == "author"]
    assert authors == ["Lena", "Lena", "Lena (2)", "Lena"]
    assert {(n, v) for n, p, v in parts(source) if p == "type"} == {("Lena", "Person"), ("Lena (2)", "City")}
    assert parts(source) == parts(source), "the same names each time"


def test_blank_nodes_that_nothing_tells_are_counted(of):
    source = of("_:a :next _:b ; :x 1 . _:b :next _:a . _:c :self _:c . [ :a [ :b 1 ] ] . :k :goes _:d . _:d :v 1 ; :n _:e . _:e :w 2 ; :n _:d .")
    assert parts(source) == [("k", "goes", "v: 1; n: w: 2")]
    assert source.skipped == {"blank node without a name": 6, "blank node that says nothing or leads in circles": 1}


def test_numbers_stay_as_they_are_written(of):
    assert [v for _, _, v in parts(of(":a :b 1e5 ; :c 1.20e3 ; :d 1.50 ; :e 3.0E0 ; :f -0.10 ."))] == [
        "1e5", "1.20e3", "1.50", "3.0E0", "-0.10",
    ]  # fmt: skip


def test_other_labels_are_aliases(of):
    text = """:acme rdfs:label "Acme"@en, "Acme GmbH"@de ; schema:name "Acme  Robotics" ; skos:altLabel "AR", "The Firm" ;
        owl:sameAs dbr:Acme, :acme2 ; :seat "Ulm" . :acme2 rdfs:label "Acme Two" . :plain skos:altLabel "Simple" ."""
    source = of(text)
    assert parts(source) == [
        ("Acme", "seat", "Ulm"),
        ("Acme", "also known as", "Acme Robotics; AR; The Firm; Acme Two"),
        ("plain", "also known as", "Simple"),
    ]
    assert source.skipped == {"text in another language": 1, "the same as something of which the file says no name": 1}
    each = [value for _, prop, value in parts(of(text, several="each")) if prop == "also known as"]
    assert each == ["Acme Robotics", "AR", "The Firm", "Acme Two", "Simple"]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".nt", '<http://a/Ada_Lovelace> <http://a/birthPlace> "London" .\n'),
        (".nq", '<http://a/Ada_Lovelace> <http://a/birthPlace> "London" <http://a/g> .\n'),
        (".jsonld", '{"@context": {"@vocab": "http://a/"}, "@id": "http://a/Ada_Lovelace", "birthPlace": "London"}'),
        (
            ".rdf",
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:a="http://a/">'
            '<rdf:Description rdf:about="http://a/Ada%5FLovelace"><a:birthPlace>London</a:birthPlace></rdf:Description></rdf:RDF>',
        ),
    ],
)
def test_other_formats(tmp_path, suffix, text):
    path = tmp_path / f"x{suffix}"
    path.write_text(text, "utf-8")
    assert parts(open_source(path)) == [("Ada Lovelace", "birth place", "London")]


def test_numbers_of_json_ld_read_as_numbers(tmp_path):
    path = tmp_path / "x.jsonld"
    numbers = '"mass": 3.5, "n": 7, "ok": true, "tiny": 0.00001, "large": 123456789012345678901, "huge": 1e30'
    typed = '"typed": {"@value": "1.20e3", "@type": "http://www.w3.org/2001/XMLSchema#double"}'
    path.write_text(f'{{"@context": {{"@vocab": "http://a/"}}, "@id": "http://a/x", {numbers}, {typed}}}', "utf-8")
    found = {p: v for _, p, v in parts(open_source(path))}
    assert found == {
        "mass": "3.5", "n": "7", "ok": "true", "tiny": "0.00001", "large": "123456789012345678901", "huge": "1.0E30", "typed": "1.20e3",
    }  # fmt: skip


def test_a_context_elsewhere_is_not_fetched(tmp_path):
    path = tmp_path / "x.jsonld"
    path.write_text('{"@context": "https://schema.org/", "name": "x"}', "utf-8")
    with pytest.raises(ImportFileError, match="remote contexts are not fetched; write the context into the file"):
        list(open_source(path))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("x.ttl", '@prefix : <http://a/> .\n:a :b "c" .\n:a :b ; .\n', 3),
        ("x.nt", '<http://a> <http://b> "c" .\nnonsense\n', 2),
        ("x.jsonld", '{"@context": "https://schema.org/", "@id": "http://a/x", "name": "x"}', 0),
    ],
)
def test_bad_rdf_names_the_line(tmp_path, name, text, line):
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.raises(ImportFileError) as caught:
        list(open_source(path))
    assert (caught.value.path, caught.value.line) == (str(path), line) or (line == 0 and "ontext" in caught.value.reason)


RDF_XML = (
    '<?xml version="1.0"?>\n<!DOCTYPE r [\n%s\n]>\n<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:a="http://a/"><rdf:Description rdf:about="http://a/x"><a:b>&n;</a:b></rdf:Description></rdf:RDF>'
)


@pytest.mark.parametrize("suffix", [".rdf", ".owl"])
def test_entities_that_unpack_to_more_than_memory_holds_are_refused(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_text(RDF_XML % '<!ENTITY n "Ada">\n<!ENTITY a "http://a/">', "utf-8")
    assert parts(open_source(path)) == [("x", "b", "Ada")]
    chain = "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">\n' for before, name in zip("abcdefghijklm", "bcdefghijklmn", strict=True))
    for entities in ('<!ENTITY a "lol">\n' + chain, f'<!ENTITY n "{"x" * 301}">', '<!ENTITY % n "Ada">'):
        path.write_text(RDF_XML % entities, "utf-8")
        with pytest.raises(ImportFileError, match=r"line \d+: expected entities that are texts"):
            list(open_source(path))
    path.write_text("no XML", "utf-8")
    with pytest.raises(ImportFileError, match="line 1: not RDF/XML"):
        list(open_source(path))


def test_bad_options(turtle):
    with pytest.raises(ConfigurationError, match="several: expected 'join' or 'each'"):
        open_source(turtle, several="all")
    with pytest.raises(ImportFileError, match="expected at most"):
        list(open_source(turtle, max_mb=1e-6))
