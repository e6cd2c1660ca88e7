"""Statements: every token of a triple's sentence with the part it plays."""

import pytest

from kblam_engine.native_layout import collate
from kblam_engine.statements import REFUSAL_TEXT, Role, StatementTokenizer
from kblam_engine.triples import Triple

END = 2
PARTS = {
    "property": (Role.PROPERTY_FIRST, Role.PROPERTY),
    "name": (Role.NAME_FIRST, Role.NAME),
    "value": (Role.VALUE_FIRST, Role.VALUE),
}


def said(tokenizer, statement, part):
    """Return the text of the tokens that play a part, the space before it left out."""
    ids = [i for i, r in zip(statement.ids, statement.roles, strict=True) if r in PARTS[part]]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False).removeprefix(" ")


@pytest.mark.parametrize(
    "triple",
    [
        Triple("Acme Robotics", "founder", "Lena Hoffmann"),
        Triple("Orca 2", "battery life", "7.5 hours"),
        Triple("Orca 2", "purpose", "to inspect the hulls of ships. It floats."),
        Triple("Orca", "battery of Orca", "Orca 12"),
        Triple("7", "7", "7 7"),
        Triple("is", "of", "is"),
        Triple("s", "e", "s"),
        Triple("f", "h", "i"),
        Triple("a  b", "c  d", "e  f"),
        Triple("Ærø 5", "größte Höhe", "68 m über \N{WATER WAVE}"),
        Triple("the of is", "The The", "The the of the is The."),
    ],
    ids=str,
)
def test_tokens_of_each_part_spell_it(statements, tiny_tokenizer, triple):
    statement = statements(triple)
    assert len(statement.ids) == len(statement.roles)
    assert said(tiny_tokenizer, statement, "property") == triple.property
    assert said(tiny_tokenizer, statement, "name") == triple.name
    assert said(tiny_tokenizer, statement, "value") == triple.value
    for first, _ in PARTS.values():
        assert statement.roles.count(first) == 1
    assert statement.roles[0] == Role.BEGIN
    assert Role.PAD not in statement.roles
    text = tiny_tokenizer.decode(statement.ids[:-2], clean_up_tokenization_spaces=False)
    assert text == triple.statement


def test_order_of_roles(statements):
    roles = statements(Triple("Orca", "purpose", "to float")).roles
    kept = [Role(r) for i, r in enumerate(roles) if i == 0 or r != roles[i - 1]]
    g, parts = Role.GLUE, [r for pair in PARTS.values() for r in pair]
    assert kept == [Role.BEGIN, g, *parts[:2], g, *parts[2:4], g, *parts[4:], Role.STOP, Role.MORE, Role.END]


def test_full_stop_of_the_value_belongs_to_it(statements):
    roles = statements(Triple("Orca", "purpose", "to float.")).roles
    assert Role.STOP not in roles
    assert roles[-3:] == (Role.VALUE, Role.MORE, Role.END)


def test_line_break_and_end_are_alternatives(statements, tiny_tokenizer):
    statement = statements(Triple("Orca", "purpose", "to float"))
    assert statement.ids[-2:] == (tiny_tokenizer("\n")["input_ids"][-1], END)
    tokens = collate([[statement]], [[0.0]])
    assert tokens.previous[0, -1] == tokens.previous[0, -2] == statement.ids[-3]


def test_null_statement_only_ends(statements, tiny_tokenizer):
    assert tiny_tokenizer.decode(statements.null.ids[:-1]) == REFUSAL_TEXT
    assert statements.null.roles[0] == Role.NULL_BEGIN
    assert set(statements.null.roles[1:-1]) == {Role.NULL}
    assert statements.null.ids[-1] == END and statements.null.roles[-1] == Role.END


def test_the_embedded_tokenizer_marks_whole_parts(default_model):
    tokenizer = default_model.tokenizer
    statements = StatementTokenizer(tokenizer, tokenizer.eos_token_id)
    for triple in (
        Triple("Acme Robotics", "founding date", "12 March 2009"),
        Triple("4471-Main", "limit 2", "12,500.75 EUR"),
        Triple("s", "e", "s"),
        Triple("C++", "e-mail", "a.b@c.example"),
        Triple("Orca", "purpose", "It floats."),
    ):
        statement = statements(triple)
        for part, text in (("property", triple.property), ("name", triple.name), ("value", triple.value)):
            assert said(tokenizer, statement, part).removesuffix(".") == text.removesuffix(".")
