"""A LlamaIndex index that lives: documents come, change and go, and the next answer knows it."""

from llama_index.core import Document

from kblam_integrations.llama_index import KBLaMIndex, KBLaMLLM

QUESTION = "How long does the battery of the Orca 2 last?"


def sheet(battery_life: str) -> Document:
    """Return a data sheet; its id stays the same."""
    return Document(
        text=f"name: Orca 2\nbattery life: {battery_life}\ndiving depth: 120 metres",
        doc_id="orca-2-sheet",
        metadata={"file_name": "orca2.pdf"},
    )


index = KBLaMIndex.from_documents([sheet("11 hours")], llm=KBLaMLLM(max_tokens=48))
engine = index.as_query_engine()
response = engine.query(QUESTION)
print("first:  ", response)
source = response.source_nodes[0]
print("         from", source.metadata["source"], f"({source.node.ref_doc_id}), attention {source.score:.2f}")

print("refresh:", index.refresh_ref_docs([sheet("13.5 hours")]), index.refresh_ref_docs([sheet("13.5 hours")]))
print("changed:", engine.query(QUESTION))

index.insert(Document(text="name: Orca 2\ncolour: signal orange", doc_id="brochure"))
print("colour: ", engine.query("What is the colour of the Orca 2?"))

index.delete_ref_doc("orca-2-sheet")
print("deleted:", engine.query(QUESTION))
print("left:   ", [triple.statement for triple in index.kb])
