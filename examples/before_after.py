"""One app twice: documents, a vector index, a retriever and a prompt, or knowledge in attention. Who answers better?

Both get the same documents (a sheet of lines for each name), the same questions and the same base model, and each runs
in a process of its own. The result is a table: right answers, refusals, time, tokens, memory. Without arguments it asks
a few of the held-out questions about chemical elements; docs/before_after.md has the command of the whole measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import convert_to_messages
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from kblam_engine import KnowledgeBase
from kblam_engine.evaluation.assembly import assemble
from kblam_engine.evaluation.environment import peak_rss_mb
from kblam_engine.evaluation.metrics import exact, is_refusal
from kblam_engine.evaluation.questions import Question, read_questions
from kblam_engine.evaluation.runner import sample_questions
from kblam_engine.sentence_encoder import load_sentence_encoder
from kblam_engine.triple_files import read_triples
from kblam_engine.triples import Triple
from kblam_integrations.langchain import ChatKBLaM, KBLaMDocumentIndex

HELD_OUT = Path(__file__).parents[1] / "tests" / "heldout"
SECONDS = ("seconds to index", "  of them, processor time")
INSTRUCTION = "Answer in one sentence, with the context below and nothing else. If it does not say, say that you do not know."


class MiniLM(Embeddings):
    """The engine's sentence encoder as LangChain embeddings."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents."""
        return load_sentence_encoder().encode(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Embed a question."""
        return self.embed_documents([text])[0]


def before(documents: list[Document], k: int) -> Runnable:
    """Return the app as it is usually built."""
    store = InMemoryVectorStore(MiniLM())
    store.add_documents(documents)
    retriever = store.as_retriever(search_kwargs={"k": k})
    prompt = ChatPromptTemplate.from_messages([("system", INSTRUCTION + "\n\n{context}"), MessagesPlaceholder("chat")])
    context = RunnableLambda(lambda asked: asked["chat"][-1].text) | retriever | joined
    return {"context": context, "chat": lambda asked: asked["chat"]} | prompt | ChatKBLaM(max_tokens=48)


def after(documents: list[Document], k: int) -> Runnable:
    """Return the app with knowledge in attention; there is no number of documents to choose."""
    index = KBLaMDocumentIndex(kb=KnowledgeBase.open(":memory:", multi=True))
    index.upsert(documents)
    return RunnableLambda(lambda asked: asked["chat"]) | ChatKBLaM(kb=index.kb, max_tokens=48)


def joined(documents: list[Document]) -> str:
    """Return documents as the context of a prompt."""
    return "\n\n".join(document.page_content for document in documents)


def sheets(triples: list[Triple]) -> list[Document]:
    """Return a document for each name: a line for each of its triples."""
    lines: dict[str, list[str]] = {}
    for triple in triples:
        lines.setdefault(triple.name, [f"name: {triple.name}"]).append(f"{triple.property}: {triple.value}")
    return [Document("\n".join(own), id=name, metadata={"source": f"{name}.txt"}) for name, own in lines.items()]


def sentences(triples: list[Triple]) -> list[Document]:
    """Return a document for each triple: its sentence."""
    return [Document(triple.statement, id=str(number)) for number, triple in enumerate(triples)]


def ask(app: Runnable, question: Question) -> dict[str, float | bool | None]:
    """Ask a question; return whether the answer is right, whether it refuses, its times in ms and its tokens."""
    begun, first, whole = clocks(), None, None
    for chunk in app.stream({"chat": convert_to_messages(list(question.messages))}):
        first = first or (clocks() if chunk.text else None)
        whole = chunk if whole is None else whole + chunk
    ended = clocks()
    first = first or ended
    usage = whole.usage_metadata
    return {
        "exact": exact(whole.text, question.answers) if question.answerable else None,
        "refused": is_refusal(whole.text),
        "first_ms": first[0] - begun[0],
        "first_cpu_ms": first[1] - begun[1],
        "whole_ms": ended[0] - begun[0],
        "whole_cpu_ms": ended[1] - begun[1],
        "read": usage["input_tokens"],
        "written": usage["output_tokens"],
    }


def clocks() -> tuple[float, float]:
    """Return the time and this process's processor time, which others on the machine do not change, in ms."""
    return 1000 * time.perf_counter(), 1000 * time.process_time()


def measure(build: str, options: argparse.Namespace) -> dict[str, float]:
    """Build one of the apps and ask it everything."""
    questions = [question for path in options.questions for question in read_questions(path)]
    distractors = read_triples(options.distractors) if options.distractors else ()
    triples = assemble(read_triples(options.kb), questions, distractors, options.n_triples).triples
    begun = clocks()
    documents = sentences(triples) if build == "before" and options.sentences else sheets(triples)
    app = {"before": before, "after": after}[build](documents, options.k)
    indexed = clocks()
    for _ in app.stream({"chat": convert_to_messages([("human", "Hello!")])}):
        pass  # the first call loads the model
    asked = sample_questions(questions, options.limit, 0)
    found = [ask(app, question) for question in asked]
    known = [each for each in found if each["exact"] is not None]
    unknown = [each for each in found if each["exact"] is None]
    return {
        "questions": len(found),
        "triples": len(triples),
        "right": share(each["exact"] for each in known),
        "refused, and rightly": share(each["refused"] for each in unknown),
        "refused though answerable": share(each["refused"] for each in known),
        "ms to the first token": statistics.median(each["first_ms"] for each in found),
        "  of them processor time": statistics.median(each["first_cpu_ms"] for each in found),
        "ms to the whole answer": statistics.median(each["whole_ms"] for each in found),
        "  of those, processor time": statistics.median(each["whole_cpu_ms"] for each in found),
        "tokens read": statistics.mean(each["read"] for each in found),
        "tokens written": statistics.mean(each["written"] for each in found),
        "peak memory, MB": peak_rss_mb() or 0.0,
        "seconds to index": (indexed[0] - begun[0]) / 1000,
        "  of them, processor time": (indexed[1] - begun[1]) / 1000,
    }


def share(flags: Iterable[float | bool | None]) -> float:
    """Return which part of some flags is set."""
    known = [bool(flag) for flag in flags]
    return sum(known) / len(known) if known else float("nan")


def main() -> None:
    """Measure both apps, one after the other, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kb", type=Path, default=HELD_OUT / "elements.kb.jsonl", help="triples, .jsonl or .csv")
    parser.add_argument("--questions", type=Path, action="append", help="questions as `kblam eval` reads them")
    parser.add_argument("--distractors", type=Path, help="triples to fill the knowledge base with")
    parser.add_argument("--n-triples", type=int, help="size of the knowledge base")
    parser.add_argument("--limit", type=int, default=6, help="how many questions, a seeded sample")
    parser.add_argument("-k", type=int, default=3, help="documents in the prompt of the app before")
    parser.add_argument("--sentences", action="store_true", help="documents of the app before are single sentences")
    parser.add_argument("--side", choices=("before", "after"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.questions = options.questions or [HELD_OUT / "elements.questions.jsonl"]
    if options.side:
        print(json.dumps(measure(options.side, options)))
        return
    found = {}
    for side in ("before", "after"):  # each in a process of its own, for its memory
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--side", side], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found[side] = json.loads(done.stdout.splitlines()[-1])
    print(f"{found['after']['questions']} questions, {found['after']['triples']} triples\n")
    print(f"| {'':27} | before | after |\n|{'-' * 29}|--------|-------|")
    for name, value in found["after"].items():
        if name not in ("questions", "triples"):
            digits = 2 if name.startswith(("right", "refused")) else 1 if name in SECONDS else 0
            print(f"| {name:27} | {found['before'][name]:.{digits}f} | {value:.{digits}f} |")


if __name__ == "__main__":
    main()
