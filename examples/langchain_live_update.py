"""A chain that learns while it runs: documents come, change and go, and the next answer knows; nothing is rebuilt."""

from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from kblam_engine import KnowledgeBase
from kblam_integrations.langchain import ChatKBLaM, KBLaMDocumentIndex

kb = KnowledgeBase.open(":memory:")
chain = (
    ChatPromptTemplate.from_messages([("human", "What is the {property} of {name}?")])
    | ChatKBLaM(kb=kb, max_tokens=40)
    | StrOutputParser()
)
documents, records = KBLaMDocumentIndex(kb=kb), InMemoryRecordManager("products")
records.create_schema()
ORCA, KITE = {"source": "orca.txt"}, {"source": "kite.txt"}


def publish(*pages: Document) -> None:
    """Make these pages the whole of what is known, and ask."""
    done = index(pages, records, documents, cleanup="full", source_id_key="source", key_encoder="sha256")
    print(f"{done['num_added']} added, {done['num_skipped']} unchanged, {done['num_deleted']} deleted")
    for name in ("the Orca 2", "the Kite"):
        print("  ", chain.invoke({"property": "battery life", "name": name}))


kite = Document("name: Kite\nbattery life: 40 minutes", metadata=KITE)
publish(Document("name: Orca 2\nbattery life: 11 hours\nprice: 48,000 euros", metadata=ORCA), kite)
publish(Document("name: Orca 2\nbattery life: 13.5 hours\nprice: 48,000 euros", metadata=ORCA), kite)
publish(Document("name: Orca 2\nbattery life: 13.5 hours\nprice: 48,000 euros", metadata=ORCA))

kb.set("Orca 2", "battery life", "14 hours")  # by hand, without any document
print("by hand\n  ", chain.invoke({"property": "battery life", "name": "the Orca 2"}))
