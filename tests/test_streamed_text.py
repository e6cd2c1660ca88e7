"""The text of an answer while its tokens come in: stop texts, white space, characters in pieces, spans."""

from kblam_engine.streamed_text import StreamedText


class Letters:
    """A tokenizer of one character a token; `pieces` gives some ids a text of their own."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def decode(self, token_ids, **options):
        return "".join(self.pieces[i] if i < len(self.pieces) else chr(i) for i in token_ids)


def push_all(text, stop=(), tokenizer=None):
    row = StreamedText(tokenizer or Letters(), stop)
    pieces = []
    for letter in text:
        pieces.append(row.push(letter if isinstance(letter, int) else ord(letter)))
        if row.finish_reason:
            break
    pieces.append(row.finish("length"))
    assert "".join(pieces) == row.text
    return row, pieces


def test_the_start_of_a_stop_string_is_held_back():
    row, pieces = push_all("abENxENDyz", ("END",))
    assert pieces[:7] == ["a", "b", "", "", "ENx", "", ""] and row.text == "abENx"
    assert row.finish_reason == "stop"


def test_what_was_held_back_is_shown_when_the_text_ends_otherwise():
    row, pieces = push_all("abEN", ("END",))
    assert pieces[-1] == "EN" and row.text == "abEN" and row.finish_reason == "length"


def test_overlapping_stop_strings():
    assert push_all("xaaabz", ("aab",))[0].text == "xa"
    assert push_all("one\ntwo\n\nthree", ("\n\n", "END"))[0].text == "one\ntwo"
    assert push_all("xyz", ("yz", "xyz"))[0].text == ""


def test_a_stop_string_within_one_token():
    row, pieces = push_all([0], ("STOP",), Letters("say STOP now"))
    assert row.text == "say" and row.finish_reason == "stop"


def test_white_space_around_the_answer_is_left_out_and_inside_kept():
    row, pieces = push_all("\n  a  b \n")
    assert row.text == "a  b" and pieces == ["", "", "", "a", "", "", "  b", "", "", ""]
    assert push_all("\n\nyes", ("\n\n",))[0].text == "yes"
    assert push_all("   ")[0].text == ""


def test_characters_of_several_tokens_come_whole(tiny_tokenizer):
    text = "Tromsø 🚢 né"
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > len(text)
    row, pieces = push_all(ids, tokenizer=tiny_tokenizer)
    assert row.text == text and "\ufffd" not in "".join(pieces)
    spans = row.token_spans
    ship = text.index("🚢")
    assert spans.count((ship, ship + 1)) == 4
    assert len(spans) == len(ids) and spans[0] == (0, 1) and spans[-1] == (len(text) - 1, len(text))


def test_half_a_character_at_the_end_is_shown_as_the_tokenizer_does(tiny_tokenizer):
    ids = tiny_tokenizer.encode("né", add_special_tokens=False)[:-1]
    assert push_all(ids, tokenizer=tiny_tokenizer)[0].text == tiny_tokenizer.decode(ids)


def test_spans_tell_where_each_token_is():
    row, _ = push_all([0, 1, 2, 3], tokenizer=Letters("\n ", " Len", "a Hoff", "mann"))
    assert row.text == "Lena Hoffmann"
    assert row.token_spans == [(0, 0), (0, 3), (3, 9), (9, 13)]
    assert row.text[3:9] == "a Hoff"


def test_spans_of_tokens_in_a_stop_string_are_empty():
    row, _ = push_all([0, 1, 2], ("END",), Letters("yes E", "N", "D"))
    assert row.text == "yes" and row.token_spans == [(0, 3), (3, 3), (3, 3)]


def test_spans_while_a_character_is_incomplete(tiny_tokenizer):
    row = StreamedText(tiny_tokenizer)
    for token in tiny_tokenizer.encode("aé", add_special_tokens=False)[:2]:
        row.push(token)
    assert row.text == "a" and row.token_spans == [(0, 1), (1, 1)]


def test_finishing_twice_changes_nothing():
    row, _ = push_all("ab")
    assert row.finish("cancelled") == "" and row.finish_reason == "length"
