"""LangChain's own test suites for chat models, retrievers and document indexes, on a tiny random model."""

import pytest
from integration_parts import kb_of, ships, tiny_engine
from langchain_core.documents import Document
from langchain_tests.integration_tests import ChatModelIntegrationTests, RetrieversIntegrationTests
from langchain_tests.integration_tests.indexer import AsyncDocumentIndexTestSuite, DocumentIndexerTestSuite
from langchain_tests.unit_tests import ChatModelUnitTests

from kblam_engine.triples import Triple
from kblam_integrations.langchain import ChatKBLaM, KBLaMDocumentIndex, KBLaMRetriever


class Parameters:
    """What the suites ask of a model: which it is, and that it calls no tools and writes no structured output."""

    has_tool_calling = False
    has_structured_output = False

    @property
    def chat_model_class(self):
        return ChatKBLaM

    @property
    def chat_model_params(self):
        return {"engine": tiny_engine(), "kb": ships()}

    @property
    def standard_chat_model_params(self):
        return {**super().standard_chat_model_params, "max_tokens": 12}

    @property
    def model_override_value(self):
        return "tiny-llama"


class TestChatModelUnit(Parameters, ChatModelUnitTests):
    pass


class TestChatModelIntegration(Parameters, ChatModelIntegrationTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return KBLaMRetriever

    @property
    def retriever_constructor_params(self):
        return {"engine": tiny_engine(), "kb": ships()}

    @property
    def retriever_query_example(self):
        return "What is the battery life of the Orca 2?"


def each_as_a_triple(document):
    return [Triple(document.page_content, "text", "none")]


def new_index():
    return KBLaMDocumentIndex(kb=kb_of(), extract=each_as_a_triple)


class TestDocumentIndex(DocumentIndexerTestSuite):
    @pytest.fixture
    def index(self):
        return new_index()


class TestAsyncDocumentIndex(AsyncDocumentIndexTestSuite):
    @pytest.fixture
    async def index(self):
        return new_index()


def test_the_index_of_the_suites_starts_empty():
    assert new_index().get(["1"]) == [] and isinstance(new_index().upsert([Document("a")])["succeeded"][0], str)
