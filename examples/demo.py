"""What `make demo` runs: a small local model answers from 2,700 triples that are nowhere in its prompt.

It asks ten questions and a follow-up, asks two that the knowledge base cannot answer, changes one triple and asks
again, and puts the same questions to the base model alone. Nothing is downloaded while it runs. The knowledge base
stays in the user's cache, so that a second run embeds nothing.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from kblam_engine import Answer, KBLaM, KBLaMError, KnowledgeBase, Triple, datasets
from kblam_engine.models import cache_dir
from kblam_engine.threads import BusyCores

COUNTRIES = """Argentina, Australia, Austria, Bangladesh, Belgium, Bolivia, Brazil, Bulgaria, Cambodia, Canada,
Chile, China, Colombia, Costa Rica, Croatia, Cuba, Czechia, Denmark, Ecuador, Egypt, Ethiopia, Finland, France,
Germany, Ghana, Greece, Hungary, Iceland, India, Indonesia, Ireland, Israel, Italy, Jamaica, Japan, Kazakhstan, Kenya,
Madagascar, Malaysia, Mexico, Mongolia, Morocco, Nepal, Netherlands, New Zealand, Nigeria, Norway, Pakistan, Peru,
Philippines, Poland, Portugal, Romania, Senegal, South Africa, South Korea, Spain, Sri Lanka, Sweden, Switzerland,
Tanzania, Thailand, Turkey, Uganda, United Kingdom, United States, Uruguay, Vietnam"""

PROPERTIES = """capital, population, median age, life expectancy at birth, total fertility rate, birth rate,
nationality adjective, local name, former name, national holiday, national symbol, national colors, national anthem,
name of the legislature, chief of state, head of government, total area, coastline, length of land boundaries,
highest point, lowest point, mean elevation, share of land covered by forest, irrigated land, languages,
number of airports, length of railways, number of ports, number of merchant ships, internet country code,
aircraft registration prefix, share of the population using the internet, number of World Heritage Sites,
main export commodities, main export partners, real GDP per capita, inflation rate, unemployment rate,
electricity consumption, physician density, beer consumption per capita"""

QUESTIONS = [
    "What is the highest point in Bolivia?",
    "How many airports does Kenya have?",
    "What do the Japanese call their national anthem?",
    "When is the national holiday of New Zealand?",
    "How long is the coastline of Norway?",
    "Which aircraft registration prefix does Morocco use?",
    "What is the median age in Uganda?",
    "What is the national symbol of Mongolia?",
    "How much beer does a person in Czechia drink?",
    "What was Sri Lanka called in former times?",
]
FOLLOW_UP = "And how many World Heritage Sites does it have?"
UNANSWERABLE = [
    ("What is the capital of Velmaria?", "there is no such country"),
    ("Which side of the road do people in Peru drive on?", "the knowledge base knows Peru, but not this"),
]
CHANGED = Triple("Kenya", "number of airports", "371 (since this morning)")
MAX_VALUE_WORDS = 25
MAX_NEW_TOKENS = 64
MIN_WEIGHT_SHOWN = 0.05

console = Console(highlight=False)


def main() -> None:
    """Run the demo."""
    started, busy = time.perf_counter(), BusyCores()
    heading("Loading the base model, its adapter and the sentence encoder")
    model = KBLaM.from_pretrained("smollm2-135m")
    note(f"{time.perf_counter() - started:.1f} s")
    told = busy.adjust()
    if told:
        note(told)

    heading("Building a knowledge base out of the CIA World Factbook")
    with KnowledgeBase.open(cache_dir() / "demo" / "countries.kb") as kb:
        build(kb)

        heading("Ten questions; below each answer the triples it attended")
        answers = [ask(model, kb, question, number) for number, question in enumerate(QUESTIONS, start=1)]
        note('A follow-up to the last one: who is "it"?')
        conversation = [
            {"role": "user", "content": QUESTIONS[-1]},
            {"role": "assistant", "content": answers[-1].text},
            {"role": "user", "content": FOLLOW_UP},
        ]
        ask(model, kb, conversation)

        heading("Two questions that this knowledge base cannot answer")
        for question, reason in UNANSWERABLE:
            note(f"({reason})")
            ask(model, kb, question)

        heading("Change one triple, ask again")
        before = kb.get(CHANGED.name, CHANGED.property)
        kb.set(CHANGED.name, CHANGED.property, CHANGED.value)
        note(
            f"the {CHANGED.property} of {CHANGED.name}: {before.value if before else 'nothing'} -> {CHANGED.value}"
        )
        ask(model, kb, QUESTIONS[1])

    heading("The same questions to the base model alone")
    for number, question in enumerate([*QUESTIONS, *(question for question, _ in UNANSWERABLE)], start=1):
        alone(model, question, number)

    console.print()
    note(
        f"{time.perf_counter() - started:.0f} s in all. Your own: kblam kb import FILE --kb KB, kblam chat --kb KB"
    )


def build(kb: KnowledgeBase) -> None:
    """Put the demo's triples into a knowledge base; what it holds already is not embedded again."""
    countries, properties = (
        {word.strip() for word in words.replace("\n", " ").split(",")} for words in (COUNTRIES, PROPERTIES)
    )
    triples = [
        triple
        for triple in datasets.iter_triples("factbook")
        if triple.name in countries
        and triple.property in properties
        and len(triple.value.split()) <= MAX_VALUE_WORDS
    ]
    started = time.perf_counter()
    result = kb.add(triples, progress=True)
    known = f", {len(kb) - result.added:,} from an earlier run" if result.added < len(kb) else ""
    seconds = time.perf_counter() - started
    note(
        f"{len(kb):,} triples about {len(countries)} countries: {result.added:,} new{known}, {seconds:.1f} s"
    )


def ask(
    model: KBLaM, kb: KnowledgeBase, question: str | list[dict[str, str]], number: int | None = None
) -> Answer:
    """Ask with the knowledge base; show the answer, what it attended and how long it took."""
    started = time.perf_counter()
    answer = model.answer(question, kb=kb, max_new_tokens=MAX_NEW_TOKENS)
    seconds = time.perf_counter() - started
    asked = question if isinstance(question, str) else question[-1]["content"]
    console.print(f"\n[bold]{'' if number is None else f'{number}. '}{escape(asked)}[/bold]")
    indented(Text(answer.text, style="yellow" if answer.refused else "green"))
    shown = [attended for attended in answer.attended if attended.weight >= MIN_WEIGHT_SHOWN]
    for attended in shown[:3] or answer.attended[:1]:
        triple = attended.triple
        bar = "█" * round(10 * min(attended.weight, 1.0))
        told = f"{bar:·<10} {attended.weight:.2f}  {triple.name} | {triple.property} | {triple.value}"
        indented(Text(told, style="dim", overflow="ellipsis", no_wrap=True))
    said = "refused, " if answer.refused else ""
    note(
        f"{said}confidence {answer.confidence:.2f}, first token {answer.ttft_ms:.0f} ms, {seconds:.2f} s in all"
    )
    return answer


def alone(model: KBLaM, question: str, number: int) -> None:
    """Ask the base model without a knowledge base."""
    started = time.perf_counter()
    answer = model.generate_text([{"role": "user", "content": question}], max_new_tokens=MAX_NEW_TOKENS)
    console.print(f"\n[bold]{number}. {escape(question)}[/bold]")
    indented(Text(" ".join(answer.text.split())))
    note(f"{time.perf_counter() - started:.2f} s")


def heading(text: str) -> None:
    """Print the title of a part."""
    console.print()
    console.rule(f"[bold]{escape(text)}", align="left", style="cyan")


def note(text: str) -> None:
    """Print a line of small print."""
    indented(Text(text, style="dim"))


def indented(text: Text) -> None:
    """Print a text below a title."""
    console.print(Padding(text, (0, 0, 0, 3), expand=False))


if __name__ == "__main__":
    try:
        main()
    except KBLaMError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo: stopped")
