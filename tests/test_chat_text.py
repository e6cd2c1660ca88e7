"""What a base model reads for a chat: its template, with arguments, without system messages, and what it refuses."""

import pytest
from engine_parts import QUESTION, build_engine
from integration_parts import ships

from kblam_engine.chat_text import chat_text
from kblam_engine.errors import ConfigurationError

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
THINKING = "{% for m in messages %}{{ m.content }}{% endfor %}{{ ' think' if enable_thinking else ' answer' }}"


def said(role, content):
    return {"role": role, "content": content}


@pytest.fixture
def with_template(tiny_tokenizer):
    usual = tiny_tokenizer.chat_template

    def set_template(template):
        tiny_tokenizer.chat_template = template
        return tiny_tokenizer

    yield set_template
    tiny_tokenizer.chat_template = usual


def test_what_the_assistant_began_goes_on(tiny_tokenizer):
    asked = chat_text(tiny_tokenizer, [said("user", "the")])
    begun = chat_text(tiny_tokenizer, [said("user", "the"), said("assistant", "It is")])
    assert begun == asked + "It is"


def test_a_template_without_system_messages_gets_them_before_the_first_question(with_template):
    tokenizer = with_template(NO_SYSTEM)
    chat = [said("system", "the of"), said("user", "is"), said("assistant", "a"), said("user", "it")]
    assert chat_text(tokenizer, chat) == "the of\n\nisait"
    assert chat_text(tokenizer, chat[1:]) == "isait"
    for wrong in ([said("system", "the")], [said("user", "is"), said("system", "the")]):
        with pytest.raises(ConfigurationError, match="takes no chat of .*system.*: no system"):
            chat_text(tokenizer, wrong)


def test_arguments_reach_the_template(with_template):
    tokenizer = with_template(THINKING)
    assert chat_text(tokenizer, [said("user", "is")]) == "is answer"
    assert chat_text(tokenizer, [said("user", "is")], {"enable_thinking": True, "unheard of": 1}) == "is think"
    with pytest.raises(ConfigurationError, match="got tokenize, which is set for every chat"):
        chat_text(tokenizer, [said("user", "is")], {"tokenize": True})


def test_the_engine_hands_them_on(with_template, tiny_llama):
    engine = build_engine(tiny_llama, with_template(THINKING))
    lengths = {}
    for thinks in (False, True):
        options = {"chat_template_kwargs": {"enable_thinking": thinks}, "max_new_tokens": 2}
        lengths[thinks] = engine.answer(QUESTION, ships(), **options).usage.prompt_tokens
        assert lengths[thinks] == len(engine.token_ids(engine.chat_prompt(QUESTION, {"enable_thinking": thinks})))
        stream = engine.stream(QUESTION, **options)
        assert len(list(stream)) < 3 and stream.answer.usage.prompt_tokens == lengths[thinks]
    assert engine.answer(QUESTION, max_new_tokens=2).usage.prompt_tokens == lengths[False]
    assert engine.chat_prompt(QUESTION, {"enable_thinking": True}).endswith(" think")
    with pytest.raises(ConfigurationError, match="chat_template_kwargs: expected a mapping or None, got str"):
        engine.answer(QUESTION, chat_template_kwargs="enable_thinking")
