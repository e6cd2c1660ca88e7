"""Scores of one answer and of many: pure functions of text and numbers.

Text is compared by *tokens*: case, spacing and punctuation do not count, but a number is one token with its
sign and decimals, so "6.8" is not found inside "16.8" or "6.85", and "1,234.5" is the same as "1234.5".
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

AnswerGroups = Sequence[Sequence[str]]
"""One group per thing the answer must say; a group lists the strings that count as saying it."""

# Scripts written without spaces: each character is a token, or no value could be found inside a sentence.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = rf"[^\W_{UNSPACED}]+"
# A minus is a sign only where it cannot be a hyphen or a range: at the start, or after a space or opening
# mark that does not itself follow a digit ("10 -20"). U+2212 is a minus wherever no word precedes it.
_SIGN = r"(?:(?:(?<!\w)\u2212|(?<![^\s(\[\"'=:~<>])(?<!\d\s)-)(?=\d))"
_TOKEN = re.compile(rf"[{UNSPACED}]|{_SIGN}?{_RUN}(?:(?<=\d)[.,](?=\d){_RUN})*")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?![\d,])")
_NUMBER_UNIT = re.compile(r"(-?\d+(?:\.\d+)*)([^\W\d]+)")

_REFUSALS = tuple(
    phrase.strip()
    for phrase in """
    cannot find | can not find | could not find | unable to find | unable to answer | unable to provide
    cannot answer | cannot provide | cannot determine | not in the knowledge base | not in the facts
    do not contain | does not contain | do not mention | does not mention | do not provide | does not provide
    do not specify | does not specify | do not say | does not say | not mentioned | not provided
    not specified | not stated | not listed | not given | not available | no information
    no relevant information | no mention of | not enough information | do not have information
    do not have any information | do not have enough information | do not have the information
    do not have access | do not know | not aware of
    """.replace("\n", "|").split("|")
    if phrase.strip()
)
# Student's t, 97.5 %, for one to ten degrees of freedom; an expansion serves for more.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_CONTRACTIONS = {"can't": "cannot", "won't": "will not"}


def fold(text: str) -> list[str]:
    """Split text into comparable tokens: NFKC, case and punctuation folded, numbers kept whole.

    "-1,234.5kg" gives `["-1234.5", "kg"]`; "v1.2" stays one token; "O'Brien" gives `["o", "brien"]`.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    tokens: list[str] = []
    for run in _TOKEN.findall(unicodedata.normalize("NFKC", plain)):
        run = run.replace("\u2212", "-")
        grouped = _THOUSANDS.match(run)
        if grouped:
            run = grouped.group().replace(",", "") + run[grouped.end() :]
        for part in run.split(","):
            with_unit = _NUMBER_UNIT.fullmatch(part)
            tokens.extend(with_unit.groups() if with_unit else [part])
    return tokens


def contains(answer: str, accepted: str) -> bool:
    """Tell whether the answer holds the accepted string, from one token's start to another token's end.

    Spaces do not count ("20km" holds "20 km", "New York" holds "NewYork"), except between digits.
    """
    wanted = _squeeze(fold(accepted))
    if not wanted:  # nothing but symbols: all that is left to compare is the symbols
        return unicodedata.normalize("NFKC", accepted).strip() in unicodedata.normalize("NFKC", answer)
    tokens = fold(answer)
    for start in range(len(tokens)):
        run = ""
        for token in tokens[start:]:
            run = _join(run, token)
            if run == wanted:
                return True
            if not wanted.startswith(run):
                break
    return False


def exact(answer: str, groups: AnswerGroups) -> bool:
    """Tell whether every group has one accepted string in the answer."""
    return all(any(contains(answer, accepted) for accepted in group) for group in groups)


def token_f1(answer: str, groups: AnswerGroups) -> float:
    """Return the token F1 of the answer: best over a group's accepted strings, averaged over groups, 0..1."""
    if not groups:
        return 0.0
    tokens = fold(answer)
    return sum(max((_f1(tokens, fold(a)) for a in group), default=0.0) for group in groups) / len(groups)


def is_refusal(text: str) -> bool:
    """Tell whether a text without a `refused` field declines to answer, by its phrases."""
    words = text.casefold().replace("\u2019", "'")
    for short, full in _CONTRACTIONS.items():
        words = words.replace(short, full)
    folded = " ".join(["", *fold(words.replace("n't", " not")), ""])
    return any(f" {phrase} " in folded for phrase in _REFUSALS)


def key_of(name: str, prop: str) -> tuple[str, str]:
    """Return the form of a (name, property) pair that is compared: NFKC, case and spacing folded only."""
    return _spell(name), _spell(prop)


def retrieval_hits(
    attended: Sequence[tuple[str, str]], supports: Sequence[tuple[str, str]]
) -> tuple[bool, bool] | None:
    """Return (first attended is a support, every support is in the first five); None without supports."""
    if not supports:
        return None
    wanted = {key_of(*pair) for pair in supports}
    found = [key_of(*pair) for pair in attended[:5]]
    return bool(found) and found[0] in wanted, wanted <= set(found)


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fit value = a * size ** b over two different sizes or more, all above 0; return b, of three decimals."""
    line = statistics.linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values])
    return round(line.slope, 3)


def percentile(values: Iterable[float], q: float) -> float | None:
    """Return the `q`-th percentile (0..100, interpolated) of the finite values; None without any."""
    ordered = sorted(v for v in values if math.isfinite(v))
    if not ordered:
        return None
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float] | None:
    """Return the Wilson score interval (95 % by default) of a proportion of `n` trials; None when n is 0."""
    if n == 0:
        return None
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of `values` (Student's t); None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    spread = statistics.stdev(values) / math.sqrt(n) * _student(n - 1)
    centre = statistics.fmean(values)
    return centre - spread, centre + spread


def ratio(hits: int, n: int) -> float | None:
    """Return hits / n; None when n is 0, because nothing was measured."""
    return hits / n if n else None


def f1_of(precision: float | None, recall: float | None) -> float | None:
    """Return the harmonic mean of precision and recall; without a refusal that was right it is 0.

    None where nothing should have been refused, so that there is no recall.
    """
    if recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, right to three digits."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _f1(got: Sequence[str], wanted: Sequence[str]) -> float:
    shared = sum((Counter(got) & Counter(wanted)).values())
    return 2 * shared / (len(got) + len(wanted)) if shared else 0.0


def _join(run: str, token: str) -> str:
    """Append a token without a space, unless two numbers would become one."""
    if run and run[-1].isdigit() and (token[0].isdigit() or token[0] == "-"):
        return f"{run} {token}"
    return run + token


def _squeeze(tokens: Iterable[str]) -> str:
    run = ""
    for token in tokens:
        run = _join(run, token)
    return run


def _spell(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
