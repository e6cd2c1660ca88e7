"""A networkx graph as a knowledge base: questions about its edges and nodes, the way back, and chains of triples."""

import networkx as nx

from kblam_engine import KBLaM, KnowledgeBase
from kblam_integrations.networkx import graph_from_kb, triples_from_graph

graph = nx.MultiDiGraph()
graph.add_edge("Orca 2", "Acme Robotics", relation="manufacturer", since=2019)
graph.add_edge("Manta S", "Acme Robotics", relation="manufacturer", since=2023)
graph.add_edge("Acme Robotics", "Lena Hoffmann", relation="founder")
graph.add_edge("Acme Robotics", "Varnholm", relation="head office")
graph.add_node("Orca 2", battery_life="11 hours", colours=["signal orange", "white"])

kb = KnowledgeBase.open(":memory:", multi=True)
kb.add(
    triples_from_graph(
        graph,
        inverse={"founder": "company"},  # (Lena Hoffmann, company, Acme Robotics)
        lists="joined",
        property_text=lambda name: name.replace("_", " "),
    )
)
print(len(kb), "triples")

model = KBLaM.from_pretrained("smollm2-135m")
for question in (
    "How long does the battery of the Orca 2 last?",
    "What are the colours of the Orca 2?",
    "Who is the founder of Acme Robotics?",
    "What is the company of Lena Hoffmann?",
    "What is the battery life of the Manta S?",
):
    print(f"{question}\n  {model.answer(question, kb=kb).text}")

print("around Lena Hoffmann:")
for step in kb.neighbours("Lena Hoffmann", hops=2):
    print(f"  {step.hops}  {step.triple.statement}")
print("path:", " -> ".join(nx.shortest_path(graph_from_kb(kb), "Manta S", "Varnholm")))
