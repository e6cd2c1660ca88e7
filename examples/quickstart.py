"""The demo in a user's own words: fill a knowledge base, ask, change a triple, ask again."""

from kblam_engine import KBLaM, KnowledgeBase, datasets

PROPERTIES = """capital, highest point, coastline, national symbol, national holiday, national anthem,
number of airports, former name, median age, aircraft registration prefix""".replace("\n", " ").split(", ")
QUESTIONS = """What is the highest point in Bolivia?
How many airports does Kenya have?
What is the national anthem of Japan called?
When is the national holiday of New Zealand?
How long is the coastline of Norway?
Which aircraft registration prefix does Morocco use?
What is the median age in Uganda?
What is the national symbol of Mongolia?
What is the capital of Bhutan?
What was Sri Lanka called in former times?
What is the capital of Velmaria?
Who is the best football player of Peru?""".splitlines()  # the last two cannot be answered

model = KBLaM.from_pretrained("smollm2-135m")
kb = KnowledgeBase.open("countries.kb")  # a directory; ":memory:" for none
kb.add((t for t in datasets.load("factbook") if t.property in PROPERTIES), progress=True)
print(len(kb), "triples")

for question in QUESTIONS:
    answer = model.answer(question, kb=kb)
    print(f"\n{question}\n  {answer.text}")
    print(f"  {'refused' if answer.refused else 'answered'}, first token after {answer.ttft_ms:.0f} ms")
    for attended in answer.attended[:2]:
        print(f"  {attended.weight:.2f} {attended.triple.statement}")

kb.set("Kenya", "number of airports", "371")  # the next answer knows it
print("\nAfter the change:", model.answer("How many airports does Kenya have?", kb=kb).text)

for question in QUESTIONS:
    print("\nThe base model alone:", question, "\n ", model.answer(question).text)
