"""A LangChain RAG chain and the same app with knowledge in attention: answers, times and tokens side by side.

Before: documents, an embedding of each in a vector store, a retriever, a prompt with five documents in it, a model.
After: the triples in a knowledge base, the question, the same model. Same sentence encoder, same questions.
"""

import time

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from kblam_engine import KnowledgeBase, datasets
from kblam_engine.sentence_encoder import load_sentence_encoder
from kblam_integrations.langchain import ChatKBLaM

PROPERTIES = ("capital", "highest point", "national anthem", "number of airports")
COUNTRIES = """Argentina, Bangladesh, Belgium, Bhutan, Bolivia, Brazil, Chile, Croatia, Denmark, Ecuador, Egypt,
Ethiopia, Finland, Ghana, Hungary, Iceland, Israel, Italy, Jamaica, Japan, Kenya, Mongolia, Morocco, Nepal, Norway,
Peru, Poland, Senegal, Tanzania, Thailand, Uganda, Uruguay, Vietnam""".replace("\n", " ").split(", ")
QUESTIONS = [
    "What is the highest point in Bolivia?",
    "How many airports does Kenya have?",
    "What is the national anthem of Japan called?",
    "What is the capital of Bhutan?",
    "What is the capital of Velmaria?",  # there is no such country
]


class MiniLM(Embeddings):
    """The engine's sentence encoder as LangChain embeddings."""

    def __init__(self) -> None:
        self._encoder = load_sentence_encoder()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents."""
        return self._encoder.encode(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Embed a question."""
        return self.embed_documents([text])[0]


triples = [t for t in datasets.load("factbook") if t.property in PROPERTIES and t.name in COUNTRIES]

# Before
store = InMemoryVectorStore(MiniLM())
store.add_documents([Document(t.statement) for t in triples])
retriever = store.as_retriever(search_kwargs={"k": 5})
prompt = ChatPromptTemplate.from_template(
    "Answer in one sentence, with the context below and nothing else.\n\n{context}\n\nQuestion: {question}"
)
base = ChatKBLaM(max_tokens=32)  # without a knowledge base it is the base model, SmolLM2-135M-Instruct
joined = retriever | (lambda documents: "\n".join(d.page_content for d in documents))
before = {"context": joined, "question": RunnablePassthrough()} | prompt | base

# After
kb = KnowledgeBase.open(":memory:")
kb.add(triples)
after = ChatKBLaM(kb=kb, max_tokens=32)


def ask(chain: Runnable, question: str) -> tuple[str, float, int]:
    """Return an answer, milliseconds to its first piece, and how many tokens the model read."""
    begun, first, whole = time.perf_counter(), 0.0, None
    for chunk in chain.stream(question):
        first = first or 1000 * (time.perf_counter() - begun)
        whole = chunk if whole is None else whole + chunk
    return StrOutputParser().invoke(whole), first, whole.usage_metadata["input_tokens"]


for chain in (before, after):  # the first question also loads the model
    ask(chain, "What is the capital of Peru?")
print(len(triples), "triples about", len({t.name for t in triples}), "countries")
for question in QUESTIONS:
    print(f"\n{question}")
    for name, chain in (("before", before), ("after", after)):
        text, first, tokens = ask(chain, question)
        print(f"  {name:6}  {first:5.0f} ms to the first token, {tokens:3} tokens read: {' '.join(text.split())}")
