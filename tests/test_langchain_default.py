"""LangChain's own suites again, and a few real answers, on the embedded default model, by its name alone."""

import asyncio
from functools import cache

from integration_parts import kb_of
from langchain_tests.integration_tests import ChatModelIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from kblam_engine.sentence_encoder import load_sentence_encoder
from kblam_integrations.langchain import ChatKBLaM, KBLaMRetriever


@cache
def robots():
    return kb_of(
        ("Acme Robotics", "founder", "Lena Hoffmann"),
        ("Acme Robotics", "founding date", "12 March 2009"),
        ("Orca 2", "battery life", "11 hours"),
        ("Orca 2", "price", "48,000 euros"),
        encoder=load_sentence_encoder(),
    )


class Parameters:
    """What the suites ask of the default model: it calls no tools and writes no structured output."""

    has_tool_calling = False
    has_structured_output = False

    @property
    def chat_model_class(self):
        return ChatKBLaM

    @property
    def chat_model_params(self):
        return {"kb": robots()}

    @property
    def standard_chat_model_params(self):
        return {**super().standard_chat_model_params, "max_tokens": 24}


    @property
    def model_override_value(self):
        return "smollm2-135m"  # the one that ships an adapter; another name is tried with the tiny model


class TestChatModelUnit(Parameters, ChatModelUnitTests):
    pass


class TestChatModel(Parameters, ChatModelIntegrationTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return KBLaMRetriever

    @property
    def retriever_constructor_params(self):
        return {"kb": robots()}

    @property
    def retriever_query_example(self):
        return "How long does the battery of the Orca 2 last?"


async def test_real_answers_are_cited_batched_and_refused():
    llm = ChatKBLaM(kb=robots(), max_tokens=40)
    questions = [
        "How long does the battery of the Orca 2 last?",
        "Who founded Acme Robotics?",
        "How long does the battery of the Narwhal last?",
    ]
    answers = await asyncio.gather(*(llm.ainvoke(question) for question in questions))
    for answer, value in zip(answers, ("11 hours", "Lena Hoffmann"), strict=False):
        (block,) = answer.content_blocks
        cited = [block["text"][c["start_index"] : c["end_index"]] for c in block["annotations"]]
        assert value in block["text"] and value in " ".join(cited)
    assert answers[2].response_metadata["refused"]
    assert [llm.invoke(question).text for question in questions] == [answer.text for answer in answers]
