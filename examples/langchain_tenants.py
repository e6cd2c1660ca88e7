"""One model, a knowledge base for each tenant: the config of a call says whose; nobody reads another's triples."""

import asyncio

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField

from kblam_integrations.langchain import ChatKBLaM, KBRegistry

registry = KBRegistry({
    "north": [("Varnholm depot", "opening hours", "6 am to 2 pm"), ("Varnholm depot", "foreman", "Ingrid Solberg")],
    "south": [("Varnholm depot", "opening hours", "9 am to 5 pm"), ("Kelda depot", "foreman", "Piet Vos")],
})
llm = ChatKBLaM(kbs=registry, kb_id="north", max_tokens=40).configurable_fields(
    kb_id=ConfigurableField(id="tenant", description="whose knowledge base answers")
)
chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | llm | StrOutputParser()

QUESTIONS = ["What are the opening hours of the Varnholm depot?", "Who is the foreman of the Kelda depot?"]


async def main() -> None:
    """Ask everything for both tenants at once."""
    asked = [(tenant, question) for question in QUESTIONS for tenant in registry]
    answers = await asyncio.gather(*(
        chain.ainvoke({"question": question}, {"configurable": {"tenant": tenant}}) for tenant, question in asked
    ))
    for (tenant, question), answer in zip(asked, answers, strict=True):
        print(f"{tenant}: {question}\n  {answer}")


asyncio.run(main())
