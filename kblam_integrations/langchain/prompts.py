"""What stands between a question and a chat model that needs no context."""

from __future__ import annotations

from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

kb_prompt = ChatPromptTemplate.from_messages(
    [MessagesPlaceholder("chat_history", optional=True), ("human", "{question}")]
)
"""For chains that were ``retriever | prompt | llm`` and stay chains: the question, after the conversation if there is one.

No context and no instruction about one: "use only the context below" above an empty context makes a model refuse.
"""

__all__ = ["kb_prompt"]
