"""A chat that streams, remembers what was said, and cites: which words come from which triple, and from where."""

from langchain_core.messages import AIMessageChunk, HumanMessage

from kblam_engine import KnowledgeBase, Triple
from kblam_integrations.langchain import ChatKBLaM

SHEET = {"title": "Data sheet, edition 4", "url": "https://acme.example/orca2.pdf"}
kb = KnowledgeBase.open(":memory:")
kb.add([
    Triple("Orca 2", "battery life", "11 hours", SHEET),
    Triple("Orca 2", "maximum depth", "120 metres", SHEET),
    Triple("Orca 2", "price", "48,000 euros", {"title": "Price list"}),
    Triple("Acme Robotics", "founder", "Lena Hoffmann", {"title": "Press release"}),
])
llm = ChatKBLaM(kb=kb, max_tokens=48)

history = []
for question in ("How long does the battery of the Orca 2 last?", "And how deep can it dive?", "Who founded Acme Robotics?"):
    history.append(HumanMessage(question))
    print(f"\nYou:  {question}\nModel: ", end="")
    answer = None
    for chunk in llm.stream(history):
        print(chunk.text, end="", flush=True)
        answer = chunk if answer is None else answer + chunk
    print()
    assert isinstance(answer, AIMessageChunk)
    history.append(answer)
    for block in answer.content_blocks:
        for citation in block.get("annotations", []):
            words = block["text"][citation["start_index"] : citation["end_index"]]
            print(f'  "{words}" is from {citation["title"]} {citation.get("url", "")}'.rstrip())
