"""How like an answer's text is to reference texts: ROUGE-L and BERTScore.

The packages rouge-score and bert-score are imported here only, and only when a score is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kblam_engine.errors import ConfigurationError, MissingDependencyError, ModelNotFoundError
from kblam_engine.evaluation.metrics import UNSPACED, AnswerGroups, exact

Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]
"""Predictions, and for each its references; one score for each, 0 to 1."""

_PACKAGES = {"rouge-l": "rouge_score", "bertscore": "bert_score"}
TEXT_METRICS = tuple(_PACKAGES)
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_BATCH = 64
_MAX_TOKENS = 512


def check_text_metrics(names: Iterable[str]) -> None:
    """Check that the metrics exist and that their packages are installed; nothing is imported.

    Raises:
        ConfigurationError: a name is not one of `TEXT_METRICS`.
        MissingDependencyError: a package is not installed.
    """
    for name in names:
        if name not in _PACKAGES:
            raise ConfigurationError(f"metrics: expected {' or '.join(TEXT_METRICS)}, got {name!r}")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise _missing(name)


def text_scorer(name: str) -> Scorer:
    """Return the scorer of a metric, with what it needs loaded; raises what `check_text_metrics` raises."""
    check_text_metrics([name])
    if name == "bertscore":
        return BertScorer().scores
    return lambda predictions, references: [
        rouge_l(prediction, of_it) for prediction, of_it in zip(predictions, references, strict=True)
    ]


def reference_texts(answers: AnswerGroups, statements: Sequence[str] = ()) -> list[str]:
    """Return what a right answer may look like as a text.

    That is the accepted strings themselves, and the statements of the supports where they hold the answer,
    which is the form of KBLaM's own references ("The <property> of <name> is <value>").

    Args:
        answers: groups of accepted strings.
        statements: of the question's supports.
    """
    variants = range(max(map(len, answers), default=0))
    bare = [", ".join(group[min(i, len(group) - 1)] for group in answers) for i in variants]
    full = " ".join(statements)
    return [full, *bare] if full and exact(full, answers) else bare


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence of words, best over the references, 0 to 1.

    Words are those of the package (small letters and digits, no stems), and letters of other scripts too.

    Raises:
        ConfigurationError: no references, or one string in place of a list.
        MissingDependencyError: the package rouge-score is not installed.
    """
    _check_references(references)
    scorer = _rouge_scorer()
    return max(float(scorer.score(reference, prediction)["rougeL"].fmeasure) for reference in references)


class BertScorer:
    """BERTScore with the token embeddings of a local BERT-like encoder, which is loaded once.

    The last layer, without idf weights or rescaling: values are for comparing systems with each other. With this
    encoder they are not those of BERTScore's usual, larger ones, and unlike texts come out well above 0.
    """

    def __init__(self, folder: str | Path | None = None, *, device: str = "cpu") -> None:
        """Load the encoder; nothing is downloaded.

        Args:
            folder: a model and tokenizer that transformers saved; None: the embedded sentence encoder.
            device: where to compute.

        Raises:
            MissingDependencyError: the package bert-score or the one with the encoder is not installed.
            ModelNotFoundError: the folder holds no such model.
        """
        self._match = _import("bertscore", "bert_score.utils").bert_cos_score_idf
        self._device = device
        self._model, self._tokenizer = _encoder(_embedded() if folder is None else Path(folder))
        self._model.to(device)

    def scores(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Return the F1 of each prediction, best over its references; of a blank text it is 0.

        Raises:
            ConfigurationError: not a list of references, with at least one, for each prediction.
        """
        if len(predictions) != len(references):
            raise ConfigurationError(
                f"references: expected a list for each of {len(predictions)} predictions, got {len(references)}"
            )
        best = [0.0] * len(predictions)
        pairs = []
        for place, (prediction, of_it) in enumerate(zip(predictions, references, strict=True)):
            _check_references(of_it)
            pairs += [(place, prediction, text) for text in of_it if text.strip() and prediction.strip()]
        if not pairs:
            return best
        # What every text begins and ends with says nothing.
        edges = (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        weights = defaultdict(lambda: 1.0, dict.fromkeys(edges, 0.0))
        found = self._match(
            self._model, [text for *_, text in pairs], [prediction for _, prediction, _ in pairs],
            self._tokenizer, weights, device=self._device, batch_size=_BATCH,
        )  # fmt: skip
        for (place, *_), f1 in zip(pairs, found[:, 2].tolist(), strict=True):
            best[place] = min(1.0, max(best[place], f1))  # rounding takes equal texts above 1
        return best


class _Words:
    """The tokenizer of rouge-score, which knows a to z only, for all scripts; the same where the text is ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


@cache
def _rouge_scorer() -> Any:
    return _import("rouge-l", "rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=_Words())


def _import(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(name) from error


def _missing(name: str) -> MissingDependencyError:
    package = _PACKAGES[name].replace("_", "-")
    return MissingDependencyError(
        f'the metric {name} needs the package {package}: pip install "kblam-engine[metrics]"'
    )


def _embedded() -> Path:
    from kblam_engine.models.registry import DEFAULT_ENCODER, EMBEDDED

    embedded = EMBEDDED[DEFAULT_ENCODER]
    weights = embedded.require()
    embedded.verify(weights)
    return weights.parent


def _encoder(folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer.

    The package's own loading takes every path with "t5" in it for a T5 model.
    """
    from transformers import AutoModel, AutoTokenizer

    from kblam_engine.models.loading import NO_CODE, quiet_transformers

    try:
        with quiet_transformers():
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, **NO_CODE)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **NO_CODE)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"{folder}: expected a folder with a BERT-like model and its tokenizer, saved by transformers ({error})"
        ) from error
    # Some tokenizers know no longest text, and the number in its place is too large for their own code.
    tokenizer.model_max_length = min(tokenizer.model_max_length, _MAX_TOKENS)
    return model, tokenizer


def _check_references(references: Sequence[str]) -> None:
    if isinstance(references, str) or not references:
        got = "one string; put it in a list" if isinstance(references, str) else "none"
        raise ConfigurationError(f"references: expected a list of texts, got {got}")
