"""Relations that rules would name badly: what the tail is to the head, what the head is to the tail, how people ask."""

from __future__ import annotations

from dataclasses import dataclass

from kblam_engine.training.relation_words import base_form


@dataclass(frozen=True)
class RelationNouns:
    """A relation as two properties: of its head (the tail is masked) and of its tail (the head is masked).

    Attributes:
        of_head: what the tail is to the head, as a noun: "founder" for ``foundedBy``.
        of_tail: what the head is to the tail: "founded organisation".
        ask_of_head: more questions for the first, with ``{n}`` for the head.
        ask_of_tail: more questions for the second, with ``{n}`` for the tail.
        source: rules, model or given.
    """

    of_head: str
    of_tail: str
    ask_of_head: tuple[str, ...] = ()
    ask_of_tail: tuple[str, ...] = ()
    source: str = "rules"

    def swapped(self) -> RelationNouns:
        """Return the relation read from its tail to its head."""
        return RelationNouns(self.of_tail, self.of_head, self.ask_of_tail, self.ask_of_head, self.source)

    @property
    def symmetric(self) -> bool:
        """Whether it says the same in both directions."""
        return self.of_head.casefold() == self.of_tail.casefold()


# Verbs stand for all their forms: "work for" is WORKS_FOR and worked_for. One relation a line:
# relation(s) | property of the head | property of the tail | question of the head | question of the tail
_LINES = """
born in, birth in, place of birth, birth place, birthplace | birthplace | native | Where was {n} born? | Who was born in {n}?
died in, place of death, death place | place of death | person who died there | Where did {n} die? | Who died in {n}?
born on, birth date | date of birth | person born then | When was {n} born? | Who was born on {n}?
died on, death date | date of death | person who died then | When did {n} die? | Who died on {n}?
buried in, buried at | burial place | person buried there | Where is {n} buried? | Who is buried in {n}?
live in, lives at, reside in, resident of, residence | residence | resident | Where does {n} live? | Who lives in {n}?
located in, located at, locate, location, location of event, in, at, within, situated in | location | located entity | Where is {n}? | What is in {n}?
based in, headquartered in, headquarters, headquarters location, seat | headquarters | resident organisation | Where is {n} based? | Which organisation is based in {n}?
from, come from, comes from, originate from, originates in | origin | entity from there | Where does {n} come from? | Who or what comes from {n}?
to, go to | destination | entity going there | Where does {n} go? | What goes to {n}?
country | country | entity in this country | Which country does {n} belong to? | What is in {n}?
work for, work at, employed by, employed at, employee of, employer | employer | employee | Who does {n} work for? | Who works for {n}?
work in, work location | field or place of work | person working there | Where does {n} work? | Who works in {n}?
work with | colleague | colleague | Who does {n} work with? | Who works with {n}?
work on | project | contributor | What does {n} work on? | Who works on {n}?
report to | supervisor | subordinate | Who does {n} report to? | Who reports to {n}?
manage | managed entity | manager | What does {n} manage? | Who manages {n}?
study at, studied in, educated at, graduated from, alma mater, attend school | alma mater | alumnus | Where did {n} study? | Who studied at {n}?
study under, student of | teacher | student | Who taught {n}? | Who was taught by {n}?
study, studies | field of study | student | What does {n} study? | Who studies {n}?
married to, marry, spouse, wed to | spouse | spouse | Who is {n} married to? | Who is {n} married to?
know, acquainted with | acquaintance | acquaintance | Who does {n} know? | Who knows {n}?
friend of, friends with, friend | friend | friend | Who is a friend of {n}? | Who is a friend of {n}?
sibling of, sibling | sibling | sibling | Who is a sibling of {n}? | Who is a sibling of {n}?
parent of, father of, mother of | child | parent | Who is a child of {n}? | Who is a parent of {n}?
belong to | owner | possession | Who does {n} belong to? | What belongs to {n}?
own, possess | possession | owner | What does {n} own? | Who owns {n}?
owned by | owner | possession | Who owns {n}? | What does {n} own?
written by, author | author | work | Who wrote {n}? | What did {n} write?
write, author of | work | author | What did {n} write? | Who wrote {n}?
starring, stars, cast member, cast | cast member | work acted in | Who stars in {n}? | What does {n} star in?
act in, star in, appear in, played in | work acted in | cast member | What did {n} act in? | Who acted in {n}?
play | instrument, sport or role | player | What does {n} play? | Who plays {n}?
play instrument | instrument | player | Which instrument does {n} play? | Who plays {n}?
play sport | sport | player | Which sport does {n} play? | Who plays {n}?
play for | team | player | Who does {n} play for? | Who plays for {n}?
member of, belong to group | group | member | What is {n} a member of? | Who is a member of {n}?
member | member | group | Who is a member of {n}? | What is {n} a member of?
participate in, take part in, compete in | event | participant | What did {n} take part in? | Who took part in {n}?
part of, component of, contained in, included in | whole | part | What is {n} part of? | What is part of {n}?
contain, include, consist of, composed of, comprise, made up of, part, component | part | whole | What is part of {n}? | What is {n} part of?
made of, made from, material used | material | entity made of it | What is {n} made of? | What is made of {n}?
is a, a, an, is an, type, instance of, kind of, type of, is a type of, is a kind of | kind | instance | What kind of thing is {n}? | What is an instance of {n}?
subclass of, subtype of, sub class of, sub property of, hypernym | broader term | narrower term | What is {n} a kind of? | What is a kind of {n}?
same as, equivalent to, equivalent class | equivalent | equivalent | What is the same as {n}? | What is the same as {n}?
similar to | similar entity | similar entity | What is similar to {n}? | What is similar to {n}?
related to, relate to, see also, associated with, linked to, connected to | related entity | related entity | What is {n} related to? | What is related to {n}?
interact with | interaction partner | interaction partner | What does {n} interact with? | What does {n} interact with?
near, close to, located near, nearby | place nearby | place nearby | What is near {n}? | What is near {n}?
die of | cause of death | person who died of it | What did {n} die of? | Who died of {n}?
found year, found date, inception, year of foundation | founding date | entity founded then | When was {n} founded? | What was founded in {n}?
different from, distinct from | different entity | different entity | What is {n} not to be confused with? | What is {n} not to be confused with?
opposite of, antonym, opposite | opposite | opposite | What is the opposite of {n}? | What is the opposite of {n}?
synonym, synonym of, also known as, known as, alias | alias | entity with this alias | What is {n} also called? | What is also called {n}?
border, borders with, shares border with, adjacent to, next to, neighbour of, neighbor of | neighbour | neighbour | What does {n} border on? | What borders on {n}?
cause, causes, lead to, result in, as a result, induce, trigger | effect | cause | What does {n} lead to? | What leads to {n}?
caused by, because, because of, result from, due to, triggered by | cause | effect | What caused {n}? | What did {n} cause?
before, happens before | later event | earlier event | What came after {n}? | What came before {n}?
after, happens after | earlier event | later event | What came before {n}? | What came after {n}?
at the same time, while, during the same time | simultaneous event | simultaneous event | What happened at the same time as {n}? | What happened at the same time as {n}?
precede, followed by, succeeded by, next | successor | predecessor | What followed {n}? | What preceded {n}?
follow, preceded by, succeed, follows from, previous | predecessor | successor | What preceded {n}? | What followed {n}?
replace | replaced entity | replacement | What did {n} replace? | What replaced {n}?
replaced by | replacement | replaced entity | What replaced {n}? | What did {n} replace?
treat | treated condition | treatment | What does {n} treat? | What treats {n}?
treated by, treated with | treatment | treated condition | What is {n} treated with? | What does {n} treat?
require, depend on, need, dependent on | requirement | dependent | What does {n} require? | What requires {n}?
required by, needed by | dependent | requirement | What requires {n}? | What does {n} require?
used by | user | used entity | Who uses {n}? | What does {n} use?
uses | used entity | user | What does {n} use? | Who uses {n}?
used for, used in, used as, purpose, for | purpose | entity used for it | What is {n} used for? | What is used for {n}?
known for, famous for, notable for | claim to fame | entity known for it | What is {n} known for? | Who or what is known for {n}?
about, describe, describes, depict, topic, subject | topic | text about it | What is {n} about? | What is about {n}?
capable of, able to | ability | entity with this ability | What can {n} do? | Who or what is capable of {n}?
responsible for | responsibility | responsible party | What is {n} responsible for? | Who is responsible for {n}?
named after | namesake | entity named after it | What is {n} named after? | What is named after {n}?
influenced by | influence | influenced entity | Who or what influenced {n}? | Who or what did {n} influence?
inspired by, based on, derived from | inspiration | inspired entity | What is {n} based on? | What is based on {n}?
published in | publication venue | text published there | Where was {n} published? | What was published in {n}?
publish in | publication venue | author | Where did {n} publish? | Who published in {n}?
nominated for | nomination | nominee | What was {n} nominated for? | Who was nominated for {n}?
speak, language spoken | language spoken | speaker | Which language does {n} speak? | Who speaks {n}?
flow into, mouth | mouth | tributary | What does {n} flow into? | What flows into {n}?
subsidiary of, owned by company, parent company, parent organization, parent organisation | parent company | subsidiary | Who is the parent company of {n}? | Which company is a subsidiary of {n}?
subsidiary | subsidiary | parent company | What is a subsidiary of {n}? | Who is the parent company of {n}?
"""


def normal(words: list[str]) -> str:
    """Return the words in lower case and verbs in their base forms."""
    return " ".join(base_form(word.casefold()) for word in words)


def _all_lines() -> dict[str, RelationNouns]:
    table: dict[str, RelationNouns] = {}
    for line in _LINES.strip().splitlines():
        relations, of_head, of_tail, ask_of_head, ask_of_tail = (part.strip() for part in line.split("|"))
        nouns = RelationNouns(of_head, of_tail, (ask_of_head,), (ask_of_tail,))
        for relation in relations.split(", "):
            table.setdefault(normal(relation.split()), nouns)
    return table


TABLE = _all_lines()
"""Relation in normal form -> its nouns."""
