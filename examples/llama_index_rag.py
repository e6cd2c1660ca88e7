"""A LlamaIndex RAG app and the same app with knowledge in attention: answers, times, tokens and sources side by side.

Before: documents, an embedding of each in a vector index, the nearest three in the prompt of a model. After: the triples
of the same documents in a knowledge base, the question, the same model. Same sentence encoder, same questions.
"""

import time

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.embeddings import BaseEmbedding

from kblam_engine.sentence_encoder import load_sentence_encoder
from kblam_integrations.llama_index import KBLaMIndex, KBLaMLLM

SHEETS = [
    "name: Orca 2\nmanufacturer: Acme Robotics\nbattery life: 11 hours\ndiving depth: 120 metres\nprice: 48,000 euros",
    "name: Narwhal\nmanufacturer: Bolt Marine\nbattery life: 6 hours\ndiving depth: 300 metres\nprice: 91,500 euros",
    "name: Manta S\nmanufacturer: Acme Robotics\nbattery life: 19 hours\nwarranty: three years\nprice: 12,900 euros",
    "name: Acme Robotics\nfounder: Lena Hoffmann\nhead office: Varnholm\nsupport line: 0800 555 014",
    "name: Bolt Marine\nfounder: Piet Vos\nhead office: Kelda\nsupport line: 0800 555 377",
]
QUESTIONS = [
    "How long does the battery of the Orca 2 last?",
    "What does the Narwhal cost?",
    "How deep can the Narwhal dive?",
    "Who founded Bolt Marine?",
    "What is the support line of Acme Robotics?",
    "What is the warranty of the Narwhal?",  # the sheets do not say
]


class MiniLM(BaseEmbedding):
    """The engine's sentence encoder as LlamaIndex embeddings."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return load_sentence_encoder().encode([text])[0].tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


documents = [Document(text=text, doc_id=f"sheet {number}") for number, text in enumerate(SHEETS, start=1)]

# Before
base = KBLaMLLM(max_tokens=48)  # without a knowledge base it is the base model, SmolLM2-135M-Instruct
before = VectorStoreIndex.from_documents(documents, embed_model=MiniLM()).as_query_engine(llm=base, similarity_top_k=3)

# After
after = KBLaMIndex.from_documents(documents, llm=KBLaMLLM(max_tokens=48)).as_query_engine()


def ask(name: str, engine: BaseQueryEngine, question: str) -> None:
    """Print an answer, how long it took, and where it comes from."""
    begun = time.perf_counter()
    response = engine.query(question)
    seconds = time.perf_counter() - begun
    sources = ", ".join(dict.fromkeys(node.node.ref_doc_id or "" for node in response.source_nodes)) or "nothing"
    print(f"  {name:6}  {seconds:4.1f} s, from {sources}: {' '.join(str(response).split())}")


for engine in (before, after):  # the first question also loads the model
    engine.query("Who founded Acme Robotics?")
for question in QUESTIONS:
    print(f"\n{question}")
    ask("before", before, question)
    ask("after", after, question)
