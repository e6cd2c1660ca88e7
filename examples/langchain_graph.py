"""A LangGraph agent whose knowledge node answers from a knowledge base, and hands over when that holds no answer."""

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


def knowledge(state: MessagesState) -> MessagesState:
    """Answer from the knowledge base, or refuse."""
    return {"messages": [llm.invoke(state["messages"])]}


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

for question in ("What is the price of the Orca 2?", "Can the Narwhal be rented?"):
    messages = agent.invoke({"messages": [HumanMessage(question)]})["messages"]
    print(f"{question}\n  {messages[-1].text}")

print("\nAs it is written:")
for chunk, metadata in agent.stream({"messages": [HumanMessage("Who founded Acme Robotics?")]}, stream_mode="messages"):
    if metadata["langgraph_node"] == "knowledge" and chunk.text:
        print(chunk.text, end="|", flush=True)
print()
