"""A LlamaIndex workflow in the place of a query pipeline: ask the knowledge base, and fall back when it refuses."""

import asyncio

from kblam_integrations.llama_index import KBLaMLLM, KBLaMQueryEngine, KBLaMWorkflow
from kblam_integrations.llama_index.workflow import PieceEvent

SHIPS = [
    ("Orca 2", "battery life", "11 hours"),
    ("Orca 2", "diving depth", "120 metres"),
    ("Acme Robotics", "founder", "Lena Hoffmann"),
]
TOWNS = [
    ("Varnholm", "mayor", "Ingrid Solberg"),
    ("Varnholm", "ferry fare", "14.20 euros"),
]


async def main() -> None:
    """Run a few questions, one of them piece by piece."""
    towns = KBLaMQueryEngine(TOWNS, max_tokens=48)  # any query engine will do
    workflow = KBLaMWorkflow(SHIPS, fallback=towns, max_tokens=48)
    for question in ("How deep can the Orca 2 dive?", "Who is the mayor of Varnholm?", "What is the capital of Peru?"):
        response = await workflow.run(query=question)
        print(f"{question}\n  {response.metadata['answered_by']}: {response}")

    streaming = KBLaMWorkflow(query_engine=KBLaMQueryEngine(llm=KBLaMLLM(kb=SHIPS, max_tokens=48), streaming=True))
    run = streaming.run(query="Who founded Acme Robotics?")
    print("Who founded Acme Robotics?\n  ", end="")
    async for event in run.stream_events():
        if isinstance(event, PieceEvent):
            print(event.delta, end="|")
    print(f"\n  sources: {[node.text for node in (await run).source_nodes]}")


asyncio.run(main())
