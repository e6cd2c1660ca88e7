"""Words that relations of graphs are made of: verbs and their forms, who does them, nouns and their converses."""

from __future__ import annotations

from dataclasses import dataclass

_REGULAR = """
abolish absorb accept access accompany achieve acquire act activate address administer adopt advise affect affiliate aim
analyse appear apply appoint approve arrive assemble assign assist associate attack attend audit author award ban base
belong bind block board border borrow call capture carry catalyse cause chair challenge cite classify climb close coach
collaborate collect command commission compete compile complete compose conduct confirm connect conquer consist
construct consume contain contribute control convert cooperate cover create cultivate damage deal decorate defeat defend
define deliver depend deploy depict derive describe design destroy detect develop diagnose direct discover dissolve
distribute divide donate earn edit educate elect eliminate emit employ enable encode endorse enter establish evolve
examine exceed exhibit execute expand experience explore export express extend fail feature film finance fire follow
force form formulate found fund gain generate govern graduate grant guard guide happen hire host house identify
illustrate implement import improve include increase induce influence inform inhabit inherit inhibit inspect inspire
install interact introduce invade invent invest investigate invite issue join kill label land last launch license like
link list live locate love maintain manage manufacture map mark market marry measure mention merge metabolise migrate
modify monitor move name narrate nominate note notify observe obtain occur occupy open operate oppose orbit order
organise originate own paint participate patent perform photograph phosphorylate place plan plant play police populate
possess power precede predict prescribe present preserve preside prevent process produce promote propose protect
provide publish purchase pursue raise rank reach receive recognise recommend record recruit reduce refer regulate reject
relate release remove rename render renovate repair replace report represent require rescue research reside restore
result retire review reward rule sail sample schedule select separate serve settle share ship sign sponsor stabilise
staff star start state stimulate stock store study succeed suggest supervise supply support surround survive symbolise
target test threaten trade train transfer transform translate transport travel treat trigger upregulate use utilise
view visit voice vote want warn watch work yield
"""
_IRREGULAR = """
become became become; begin began begun; beat beat beaten; bear bore born; breed bred bred; bring brought brought;
broadcast broadcast broadcast; build built built; buy bought bought; choose chose chosen; cut cut cut; drive drove driven;
draw drew drawn; eat ate eaten; feed fed fed; fight fought fought; find found found; fly flew flown; get got got;
give gave given; grow grew grown; hold held held; keep kept kept; know knew known; lead led led; leave left left;
lend lent lent; lie lay lain; lose lost lost; make made made; meet met met; pay paid paid; read read read; ride rode ridden;
run ran run; say said said; see saw seen; sell sold sold; send sent sent; set set set; show showed shown; shoot shot shot;
sing sang sung; speak spoke spoken; spend spent spent; spin spun spun; steal stole stolen; take took taken;
teach taught taught; tell told told; think thought thought; understand understood understood; wear wore worn;
win won won; write wrote written; oversee oversaw overseen; undergo underwent undergone; overcome overcame overcome
"""
_DOUBLED = {"plan", "map", "ship", "ban", "star", "refer", "occur", "control", "transfer", "win", "run", "set", "get",
            "cut", "spin", "begin"}  # fmt: skip
_AGENTS = {
    "advise": "advisor", "apply": "applicant", "assist": "assistant", "attend": "attendee", "author": "author",
    "bear": "mother", "cause": "cause", "coach": "coach", "chair": "chair", "compete": "competitor",
    "consult": "consultant", "govern": "governor", "guard": "guard", "guide": "guide", "host": "host",
    "inhabit": "inhabitant", "inherit": "heir", "invest": "investor", "lie": "liar", "marry": "spouse",
    "participate": "participant", "possess": "possessor", "process": "processor", "recruit": "recruiter",
    "represent": "representative", "review": "reviewer", "run": "operator", "sail": "sailor", "sponsor": "sponsor",
    "star": "star", "study": "student", "supervise": "supervisor", "survive": "survivor", "police": "police",
}  # fmt: skip
NOUNS_TOO = frozenset(
    """access address aim award base board border call cause chair challenge coach command commission control cover
    damage deal design feature film finance fire follow force form fund gain grant guard guide host house influence issue
    label land launch license link list map mark market measure name note order patent photograph place plan plant play
    police power present process promote purchase rank reach record report research result review reward rule sample
    share ship sign sponsor staff star start state stock store study supply support target test trade train transfer
    transport travel trigger use view visit voice vote work yield beat cut drive fight fly hold lead lie read ride run
    set show author increase process access
    works plays results names studies places parts reports views ranks records stores states addresses rules terms uses
    awards members notes links labels lists marks tests found meaning building painting setting""".split()
)
"""Forms of verbs that, standing alone or first in a phrase, are nouns as a rule."""

_CONVERSES = """
parent=child; mother>child; father>child; son>parent; daughter>parent; husband=wife; brother>sibling; sister>sibling;
grandparent=grandchild; uncle>nephew or niece; aunt>nephew or niece; ancestor=descendant;
employer=employee; founder=founded organisation; co-founder>founded organisation; owner=possession;
author>work; writer>written work; director>directed work; composer=composition; painter>painting; architect>building;
designer>design; inventor=invention; discoverer=discovery; creator=creation; developer>developed product;
manufacturer>manufactured product; maker>product; producer>product; publisher=publication; editor>edited work;
translator>translated work; performer>performed work; actor>work acted in; cast member>work acted in;
teacher=student; doctoral advisor=doctoral student; advisor=advisee; mentor=mentee; supervisor=subordinate;
manager>managed entity; leader>led group; member=group; part=whole; component>whole; cause=effect; result>cause;
capital>country or region; location=located entity; birthplace=native; place of birth>native;
place of death=person who died there; residence=resident; headquarters=resident organisation;
headquarters location>resident organisation; workplace=worker; citizenship=citizen; nationality>citizen;
alma mater=alumnus; predecessor=successor; broader term=narrower term; hypernym=hyponym; superclass=subclass;
parent company=subsidiary; parent organisation>subsidiary; award>award winner; symptom=disease; treatment=treated condition;
side effect>agent; requirement=dependent; dependency>dependent; prerequisite>dependent; customer=supplier; host=guest;
landlord=tenant; genre>work of this genre; operator>operated entity; winner>thing won; participant=event; topic>text about it;
subject matter>text about it; origin=entity from there; type=instance; kind>instance; class>instance; example>category;
inspiration=inspired entity; influence=influenced entity; mouth>river; neighbour=neighbour; spouse=spouse; sibling=sibling;
partner=partner; friend=friend; colleague=colleague; rival=rival; competitor=competitor; cousin=cousin; twin city=twin city;
synonym=synonym; antonym=antonym; opposite=opposite; equivalent=equivalent; acquaintance=acquaintance; co-author=co-author;
related entity=related entity; similar entity=similar entity; sister city=sister city; roommate=roommate; relative=relative;
simultaneous event=simultaneous event; earlier event=later event; owned entity=owner; collaborator=collaborator; ally=ally
"""
PREPOSITIONS = {
    "in": "place", "at": "place", "on": "place", "near": "place", "within": "place", "inside": "place",
    "from": "origin", "to": "destination", "into": "destination", "with": "partner", "for": "purpose",
    "about": "topic", "as": "role", "under": "authority", "over": "range", "against": "opponent", "of": "object",
    "through": "route", "via": "route", "between": "limit", "since": "start", "until": "end", "after": "occasion",
    "before": "occasion", "during": "period", "by": "means",
}  # fmt: skip
"""What a preposition at the end of a relation leads to."""


@dataclass(frozen=True)
class Verb:
    """A verb as far as it is known: `founded`, `founded`, `founder`, `found`; unknown verbs have no base form."""

    past: str
    participle: str
    agent: str
    base: str = ""
    gerund: str = ""


def agent_noun(stem: str) -> str:
    """Return who or what does a verb, from its base form."""
    if stem in _AGENTS:
        return _AGENTS[stem]
    if stem.endswith(("ate", "ute")):
        return stem[:-1] + "or"
    if stem.endswith(("ct", "it", "at")):
        return stem + "or"
    if stem.endswith("e"):
        return stem + "r"
    if stem.endswith("y") and stem[-2] not in "aeo":
        return stem[:-1] + "ier"
    return (stem + stem[-1] if stem in _DOUBLED else stem) + "er"


def converse(noun: str) -> str | None:
    """Return what the head is to the tail whose `noun` of the head is the tail: parent, child; None if unknown."""
    return _CONVERSE.get(noun)


def verb(word: str, *, governs: bool = False) -> Verb | None:
    """Return the verb that a word is a form of; None for words that are none, or nouns as a rule.

    Args:
        word: in lower case.
        governs: a preposition comes next, so that "works" (for) is a verb; "work" (of) may still be none.
    """
    known = _FORMS.get(word)
    if known is not None:
        return None if word in NOUNS_TOO and (not governs or word == known.base) else known
    if word.endswith("ed") and len(word) > 5 and not word.endswith(("eed", "dred", "cred")):  # an unknown verb
        stem = word[:-2]
        doer = stem[:-1] + "ier" if stem.endswith("i") else stem + ("or" if stem.endswith(("at", "ct")) else "er")
        return Verb(word, word, doer)
    return None


def base_form(word: str) -> str:
    """Return the base form of a form of a known verb, and any other word as it is."""
    known = _FORMS.get(word)
    return known.base if known is not None else word


def _regular_past(base: str) -> str:
    if base.endswith("e"):
        return base + "d"
    if base.endswith("y") and base[-2] not in "aeo":
        return base[:-1] + "ied"
    return (base + base[-1] if base in _DOUBLED else base) + "ed"


def _gerund(base: str) -> str:
    if base == "lie":
        return "lying"
    if base.endswith("e") and not base.endswith("ee"):
        return base[:-1] + "ing"
    return (base + base[-1] if base in _DOUBLED else base) + "ing"


def _third(base: str) -> str:
    if base.endswith("y") and base[-2] not in "aeo":
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


def _all_forms() -> dict[str, Verb]:
    parts = [[base, _regular_past(base), _regular_past(base)] for base in _REGULAR.split()]
    parts += [line.split() for line in _IRREGULAR.split(";")]
    forms: dict[str, Verb] = {}
    for base, past, participle in parts:
        known = Verb(past, participle, agent_noun(base), base, _gerund(base))
        for form in (base, _third(base), past, participle, known.gerund):
            forms.setdefault(form, known)
        if base.endswith("ise"):
            american = base[:-3] + "ize"
            for form in (american, american + "s", american + "d"):
                forms.setdefault(form, known)
    return forms


def _all_converses() -> dict[str, str]:
    table: dict[str, str] = {}
    for item in " ".join(_CONVERSES.split()).split("; "):
        noun, sign, other = item.partition("=")
        if not sign:
            noun, _, other = item.partition(">")
        table.setdefault(noun.strip(), other.strip())
        if sign:
            table.setdefault(other.strip(), noun.strip())
    return table


_FORMS = _all_forms()
_CONVERSE = _all_converses()
