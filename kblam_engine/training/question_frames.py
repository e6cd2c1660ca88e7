"""Frames of questions for the training of answers: the paper's, those that ask for a style, and open ends."""

from __future__ import annotations

PAPER_QUESTIONS = (
    "What {p} does {n} have?",
    "What is the {p} of {n}?",
    "Tell me about the {p} of {n}.",
    "Can you let me know the {p} of {n}?",
    "Can you inform me about the {p} of {n}?",
    "Describe the {p} of {n}.",
    "What details can you share about the {p} of {n}?",
    "What kind of {p} does {n} have?",
    "Provide details on the {p} of {n}.",
    "What features does the {p} of {n} include?",
    "Can you elaborate on the {p} of {n}?",
    "How would you describe the {p} of {n}?",
    "What can you tell me about the {p} characteristics of {n}?",
    "Can you explain the {p} of {n}?",
    "What insights can you provide about the {p} of {n}?",
    "What should I know about the {p} of {n}?",
)
"""For one triple (KBLaM, appendix)."""

PAPER_SEVERAL = (
    "What is {}?",
    "Tell me {}.",
    "Can you let me know {}?",
    "Can you inform me {}?",
    "Describe {}.",
    "Explain {}.",
    "Could you describe {}?",
    "What can you tell me about {}?",
    "Could you provide information on {}?",
    "Please enlighten me about {}.",
    "Can you clarify {} for me?",
    "Could you give me a detailed description of {}?",
    "I need more information on {}.",
)
"""For several triples (KBLaM, appendix); the blank takes "the <property> of <name>" of each."""

CHAINS = (
    "What is the {p2} of the {p1} of {n}?",
    "{n} has a {p1}: what is its {p2}?",
    "Take the {p1} of {n}. What is the {p2} of that?",
    "Look up the {p1} of {n} and tell me its {p2}.",
    "Whatever the {p1} of {n} is, I need its {p2}.",
    "what {p2} does {n}'s {p1} have",
    "First the {p1} of {n}, and then the {p2} of what you find, please.",
)
"""For two triples, the value of the first being the name of the second."""

AS_SENTENCE = (
    "{q} Answer in a full sentence.",
    "{q} Please write a complete sentence.",
    "{q} One sentence, please.",
    "In a full sentence: {q}",
)
AS_VALUE = (
    "{q} Just the value, please.",
    "{q} Answer with the value only.",
    "{q} No full sentence, just the answer.",
    "{q} Keep it as short as you can.",
    "{q} Only the answer and nothing else.",
    "{q} (value only)",
    "In as few words as possible: {q}",
    "Value only: {q}",
)
AS_LIST = (
    "{q} As a list, please.",
    "{q} One per line, no sentences.",
    "{q} Just the values, one on each line.",
    "{q} Reply with a plain list.",
    "List only the values: {q}",
    "{q} (a list will do)",
)
"""How people ask for a style; ``{q}`` is the question."""

OPEN_ENDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "what do you think of it",
        (
            "It sounds sensible to me, though how well it works in practice depends on the details.",
            "On its own it says something clear; I would want to know more before praising or blaming it.",
        ),
    ),
    (
        "why might that matter",
        (
            "It matters to everybody who plans around {n}, because other decisions follow from it.",
            "People who deal with {n} can prepare better when they know this.",
        ),
    ),
    (
        "who would need to know that",
        (
            "Anyone who works with {n} would want to know it, and so would those who write about it.",
            "Mostly people who deal with {n} themselves, and whoever has to advise them.",
        ),
    ),
    (
        "how could that affect other people",
        (
            "It could affect others wherever they depend on {n}, for better or for worse.",
            "Directly it affects those close to {n}; others may notice it only later, if at all.",
        ),
    ),
    (
        "would you say that is usual",
        (
            "I cannot say without something to compare it with, but nothing about it looks strange.",
            "It may well be usual; one would have to compare it with similar cases to be sure.",
        ),
    ),
    (
        "what would you ask next",
        (
            "Next I would ask since when that has been so, and whether it is going to change.",
            "I would ask who decided it, and what the reasons were.",
        ),
    ),
    (
        "how could one make use of that",
        (
            "One could use it to compare {n} with others and to plan with it.",
            "It is useful as a starting point: check it, write it down, and plan around it.",
        ),
    ),
    (
        "do you see any risk in it",
        (
            "A risk would be to rely on it long after it has changed, so it should be checked now and then.",
            "I see none in the information itself; the risk lies in drawing too much from a single point.",
        ),
    ),
    (
        "what does that suggest to you",
        (
            "It suggests that somebody gave {n} some thought, but one piece of information is not much to judge by.",
            "Not very much by itself; together with other information it may give a picture of {n}.",
        ),
    ),
    (
        "could it be different some day",
        (
            "It could: such things change with time, needs and money.",
            "Possibly, if there is a good reason and somebody takes the trouble.",
        ),
    ),
    (
        "how would you explain that to a child",
        (
            "I would say it in small words, give an example, and ask the child what it makes of it.",
            "I would tell it as a little story about {n} and leave the details for later.",
        ),
    ),
    (
        "what should a newcomer make of it",
        (
            "A newcomer should remember it and ask a colleague what follows from it in practice.",
            "A newcomer can take it as given at first, and find out the reasons with time.",
        ),
    ),
)
"""What open-ended questions ask besides, with answers that need no other knowledge; ``{n}`` is the name."""
