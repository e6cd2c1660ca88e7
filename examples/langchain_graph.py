"""A LangGraph agent whose knowledge node answers from a knowledge base, and hands over when that holds no answer.

Its nodes are asynchronous, as a server's are: calls at the same time are answered in one batch.
"""

import asyncio

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from kblam_integrations.langchain import ChatKBLaM

llm = ChatKBLaM(
    kb=[
        ("Orca 2", "battery life", "11 hours"),
        ("Orca 2", "price", "48,000 euros"),
        ("Acme Robotics", "founder", "Lena Hoffmann"),
    ],
    max_tokens=40,
)


async def knowledge(state: MessagesState) -> MessagesState:
    """Answer from the knowledge base, or refuse."""
    return {"messages": [await llm.ainvoke(state["messages"])]}


def person(state: MessagesState) -> MessagesState:
    """Stand in for whoever answers what the knowledge base does not."""
    return {"messages": [AIMessage("I have passed your question to the support team.")]}


def covered(state: MessagesState) -> str:
    """Say where to go: the model tells whether it refused."""
    return "person" if state["messages"][-1].response_metadata["refused"] else END


graph = StateGraph(MessagesState)
graph.add_node("knowledge", knowledge)
graph.add_node("person", person)
graph.add_edge(START, "knowledge")
graph.add_conditional_edges("knowledge", covered, ["person", END])
graph.add_edge("person", END)
agent = graph.compile()


async def main() -> None:
    """Ask two questions at once, then stream an answer."""
    questions = ("What is the price of the Orca 2?", "Can the Narwhal be rented?")
    states = await asyncio.gather(*(agent.ainvoke({"messages": [HumanMessage(question)]}) for question in questions))
    for question, state in zip(questions, states, strict=True):
        print(f"{question}\n  {state['messages'][-1].text}")

    print("\nAs it is written:")
    asked = {"messages": [HumanMessage("Who founded Acme Robotics?")]}
    async for chunk, metadata in agent.astream(asked, stream_mode="messages"):
        if metadata["langgraph_node"] == "knowledge" and chunk.text:
            print(chunk.text, end="|", flush=True)
    print()


asyncio.run(main())
