"""Invented names and values, from a seed: nothing here exists, so nothing can be answered from memory."""

from __future__ import annotations

import re
from random import Random

_ONSETS = "b br c ch d dr f fl g gl h j k kl l m n p pr qu r s sh st t th tr v w y z".split()
_VOWELS = "a e i o u a e i o ai au ea ei ou io ia".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "x", "nd", "rk", "th", "ck", "lt", "sk", "v"]
_GIVEN = (
    "Ana Bo Carla Dmitri Elif Femi Greta Hiro Ines Jonas Kofi Lena Marco Nadia Omar Priya Quinn Rosa Sven Tara "
    "Umar Vera Wei Xiomara Yara Zane Aisha Bjorn Chidi Danuta Emeka Farah Goran Hanna Ivo Jun Kateryna Liam "
    "Mateus Ngozi Oskar Pilar Ravi Sofia Tomás Uwe Valentina Wanjiru Yusuf Zofia"
).split()
_KINDS = (
    "Labs Systems Project Group Studio Institute Foundation Hotel Airlines Press Works Cloud Bank Museum Engine "
    "Valley Bridge Station Festival Act Treaty Clinic Theatre Library Harbour Trail Protocol Toolkit Reactor Garden"
).split()
_TITLE_HEADS = (
    "Storage of,Late delivery of,Loss of,Repair of,Inspection of,Transfer of,Labelling of,Cleaning of,Calibration of,"
    "Handling of,Testing for,Insurance of,Cold start with,Reuse of,Disposal of,Numbering of"
).split(",")
_TITLE_TAILS = (
    "seeds,spare parts,signal,wooden bridges,patient records,pressure sensors,cargo,textiles,archives,water wells,"
    "batteries,flat glass,rental bicycles,school meals,tower cranes,old maps"
).split(",")
_UNITS = (
    "kilograms metres days months percent MHz pages litres km/h kW GB ms seats people employees tonnes hectares "
    "minutes years volts euros dollars units"
).split()
_MONTHS = ("January February March April May June July August September October November December").split()


def word(random: Random, syllables: int | None = None) -> str:
    """Return an invented, pronounceable, capitalised word."""
    n = syllables or random.choice((1, 2, 2, 2, 3))
    parts = (
        random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS) for _ in range(max(1, n))
    )
    return "".join(parts).capitalize()


def person(random: Random) -> str:
    """Return an invented person's name."""
    middle = f" {random.choice('ABCDEFGHKLMNPRSTV')}." if random.random() < 0.08 else ""
    return f"{random.choice(_GIVEN)}{middle} {word(random, 2)}"


def name(random: Random) -> str:
    """Return an invented name of a thing, in one of the shapes names have."""
    shape = random.random()
    if shape < 0.10:
        return identified(random)
    if shape < 0.22:
        return word(random)
    if shape < 0.48:
        return f"{word(random)} {random.choice(_KINDS)}"
    if shape < 0.60:
        return f"{word(random)} {random.randint(1, 12)}"
    if shape < 0.68:
        return f"{word(random)} {word(random)}"
    if shape < 0.74:
        return f"{random.choice('ABCDEFGHJKLMNPQRSTVWXZ')}{random.choice('ABCDEFGHJKLMNPQRSTVWXZ')}-{random.randint(2, 999)}"
    if shape < 0.80:
        return f"{word(random).lower()}-{word(random).lower()}"
    if shape < 0.90:
        return person(random)
    return f"{random.choice(('The', 'Lake', 'Mount', 'Saint', 'New', 'Port', 'Fort', 'Project', 'Operation'))} {word(random)}"


def identified(random: Random) -> str:
    """Return an identifier followed by a title, as in catalogues: "ERR-2041 Loss of signal"."""
    letters = "".join(random.choice("ABCDEFGHJKLMNPRSTVW") for _ in range(random.choice((2, 3, 3, 4))))
    joint = random.choice("- -")
    return f"{letters}{joint}{random.randint(2, 4999)} {random.choice(_TITLE_HEADS)} {random.choice(_TITLE_TAILS)}"


def number(random: Random) -> str:
    """Return a number as people write them, often with a unit."""
    shape = random.random()
    if shape < 0.2:
        return str(random.randint(1, 9999))
    if shape < 0.4:
        return f"{random.randint(0, 99)}.{random.randint(0, 9999)}"
    if shape < 0.6:
        return f"{random.randint(1, 999)},{random.randint(0, 999):03d} {random.choice(_UNITS)}"
    if shape < 0.9:
        return f"{random.randint(1, 400)} {random.choice(_UNITS)}"
    return f"{random.randint(1, 90)}-{random.randint(91, 400)} {random.choice(_UNITS)}"


def date(random: Random) -> str:
    """Return a date in one of several formats."""
    day, month, year = random.randint(1, 28), random.choice(_MONTHS), random.randint(1850, 2031)
    forms = (
        f"{day} {month} {year}",
        f"{month} {day}, {year}",
        f"{year}-{_MONTHS.index(month) + 1:02d}-{day:02d}",
    )
    return random.choice((*forms, str(year), f"{month} {year}"))


def code(random: Random) -> str:
    """Return an identifier: e-mail address, serial number, version, phone number, channel, time."""
    a, b = word(random).lower(), word(random).lower()
    forms = (
        f"{a}@{b}.example",
        f"{a}.{b}@{word(random).lower()}.org",
        f"#{a}-{random.choice(('ops', 'help', 'alerts', 'dev'))}",
        f"{random.choice('ABCDEFGHKMNPRTVX')}{random.randint(10, 999)}-{b[:4].upper()}",
        f"+{random.randint(1, 99)} {random.randint(100, 999)} {random.randint(1000, 9999)}",
        f"{random.randint(0, 23):02d}:{random.randint(0, 59):02d}",
        f"v{random.randint(0, 12)}.{random.randint(0, 30)}.{random.randint(0, 9)}",
        f"{a[:3].upper()}-{random.randint(1000, 99999)}",
    )
    return random.choice(forms)


def slip(random: Random, text: str) -> str:
    """Return the text with one slip of the fingers in a longer word: letters swapped, one left out, or one doubled."""
    inner = [i for m in re.finditer(r"[^\W\d_]{5,}", text) for i in range(m.start() + 1, m.end() - 1)]
    if not inner:
        return text
    i = random.choice(inner)
    left_out, doubled = text[:i] + text[i + 1 :], text[:i] + text[i] + text[i:]
    swapped = text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return random.choice((left_out, doubled) if swapped == text else (swapped, left_out, doubled))


def near_name(random: Random, original: str, other: str = "") -> str:
    """Return a name that is almost ``original`` but is another name (a near miss).

    Args:
        random: source of the draws.
        original: a name.
        other: another name, whose words a title without a number may borrow.
    """
    words = original.split()
    last = words[-1]
    borrowed = [w for w in other.split() if len(w) > 3 and w not in words]
    telling = [i for i, w in enumerate(words) if len(w) > 3]
    if len(words) > 3 and borrowed and telling and not any(c.isdigit() for c in original):
        words[random.choice(telling)] = random.choice(borrowed)
        return " ".join(words)
    code_at = next((i for i, w in enumerate(words[:2]) if re.fullmatch(r"(?:[A-Za-z]+-)?\d+", w)), None)
    if code_at is not None and len(words) > 2:
        digits = re.search(r"\d+", words[code_at])
        assert digits is not None
        changed = str(int(digits.group()) + random.choice((1, 2, 7, 10, 100)))
        words[code_at] = words[code_at].replace(digits.group(), changed)
        # The title of another catalogue item is another title, and often it is not given at all.
        return " ".join(words[: code_at + 1] if random.random() < 0.6 else words)
    if last.isdigit():
        other = str(int(last) + random.choice((1, 2, 3, 5, 10)))
        return " ".join((*words[:-1], other))
    if len(words) > 1 and random.random() < 0.7:
        at = random.randrange(len(words))
        kinds = [k for k in _KINDS if k not in words]
        words[at] = random.choice(kinds) if at == len(words) - 1 and random.random() < 0.5 else word(random)
        changed = " ".join(words)
        return changed if changed != original else f"{original} {word(random)}"
    inner = [i for i, c in enumerate(original) if 0 < i < len(original) - 1 and c.isalpha()]
    if len(inner) > 3 and random.random() < 0.3:  # one letter makes another name; a slip is something else
        at = random.choice(inner)
        other = random.choice([c for c in "aeiounrlstm" if c != original[at]])
        return original[:at] + other + original[at + 1 :]
    if len(original) > 4 and random.random() < 0.6:
        ending = random.choice(("ium", "on", "ar", "eth", "ora", "ix", "ova"))
        changed = original[: max(3, len(original) - 2)] + ending
        return changed if changed != original else f"{original}{ending}"
    return f"{original} {random.choice((word(random), random.choice(_KINDS), str(random.randint(2, 9))))}"
