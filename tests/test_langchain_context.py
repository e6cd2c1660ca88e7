"""Chains that keep a context, and chains that change over one call at a time: what they get from ChatKBLaM."""

import json
from operator import itemgetter

from engine_parts import QUESTION
from integration_parts import copier, kb_of, ships
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough

from kblam_engine.triples import Provenance, Triple
from kblam_integrations.langchain import (
    ChatKBLaM,
    KBLaMRetriever,
    NullRetriever,
    attended_documents,
    kb_prompt,
)

ORCA = ("Orca 2", "battery life", "7.5 hours")
COPIED = "The battery life of Orca 2 is 7.5 hours."


def copying(kb=None, **options):
    return ChatKBLaM(engine=copier(), kb=ships() if kb is None else kb, max_tokens=60, **options)


def test_what_an_answer_attended_is_documents():
    kb = kb_of(Triple(*ORCA, {"page": 3}, Provenance("sheet", "orca.pdf", (4, 30)), tags=("new",)))
    message = copying(kb).invoke(QUESTION)
    (document,) = attended_documents(message)
    (retrieved,) = KBLaMRetriever(engine=copier(), kb=kb).invoke(QUESTION)
    assert (document.id, document.page_content) == (retrieved.id, COPIED)
    ((begin, end),) = document.metadata.pop("spans")
    assert message.text[begin:end] == "7.5 hours"
    assert document.metadata.pop("score") == 1.0 and retrieved.metadata.pop("score") <= 1.0
    assert document.metadata == retrieved.metadata and document.metadata["source"] == "orca.pdf"
    streamed = list(copying(kb).stream(QUESTION))
    assert attended_documents(sum(streamed[1:], streamed[0]))[0].metadata["page"] == 3
    kept = AIMessage.model_validate(json.loads(message.model_dump_json()))  # a conversation that was stored
    assert attended_documents(kept)[0].page_content == COPIED


def test_a_refusal_and_a_stranger_attended_nothing():
    refusal = copying().invoke(QUESTION, refusal_threshold=0.999999)
    assert refusal.response_metadata["refused"] and attended_documents(refusal) == []
    assert attended_documents(AIMessage("Hello.")) == []


async def test_the_null_retriever_finds_nothing():
    assert NullRetriever().invoke(QUESTION) == [] == await NullRetriever().ainvoke(QUESTION)
    assert NullRetriever().batch([QUESTION] * 2, k=3) == [[], []]


def test_a_chain_can_hand_on_its_context():
    """The shape of LangChain's create_retrieval_chain: input, context and answer."""
    chain = RunnablePassthrough.assign(message=itemgetter("input") | copying()) | {
        "input": itemgetter("input"),
        "context": itemgetter("message") | RunnableLambda(attended_documents),
        "answer": itemgetter("message") | StrOutputParser(),
    }
    found = chain.invoke({"input": QUESTION})
    assert found["input"] == QUESTION and found["answer"] == COPIED
    assert [document.page_content for document in found["context"]] == [COPIED]


class Shelf(BaseRetriever):
    """A retriever of somebody else."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document("Orca 2 is a robot.")]


def test_one_word_in_the_config_changes_the_whole_chain():
    how = ConfigurableField(id="how")
    prompt = ChatPromptTemplate.from_template("Use only this context: {context}\n\nQuestion: {question}")
    retriever = Shelf().configurable_alternatives(how, default_key="rag", kblam=NullRetriever())
    chain = (
        {"context": retriever, "question": RunnablePassthrough()}
        | prompt.configurable_alternatives(how, default_key="rag", kblam=kb_prompt)
        | FakeListChatModel(responses=["A robot."]).configurable_alternatives(how, default_key="rag", kblam=copying())
        | StrOutputParser()
    )
    assert chain.invoke(QUESTION) == "A robot."
    assert chain.invoke(QUESTION, {"configurable": {"how": "kblam"}}) == COPIED
    assert chain.with_config(configurable={"how": "kblam"}).batch([QUESTION] * 3) == [COPIED] * 3


def test_an_answer_says_which_knowledge_base_and_revision_gave_it():
    kb = kb_of(ORCA)
    for revision in (1, 2):
        answered, last = copying(kb).invoke(QUESTION), list(copying(kb).stream(QUESTION))[-1]
        for metadata in (answered.response_metadata, last.response_metadata):
            assert (metadata["kb"], metadata["kb_revision"]) == (kb.snapshot().kb_id, revision)
        kb.set("Orca 2", "battery life", "8 hours")
    alone = ChatKBLaM(engine=copier(), max_tokens=4).invoke(QUESTION).response_metadata
    assert alone["kb"] is None and alone["kb_revision"] is None
