"""Token ids to text, one id at a time: whole characters only, stop strings never shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kblam_engine.answers import FinishReason

__all__ = ["Detokenizer", "StreamedText"]

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer shows for half a character


class Detokenizer(Protocol):
    """The one method of a tokenizer that is needed here."""

    def decode(
        self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str:
        """Return the text of token ids."""


class StreamedText:
    """The text of an answer as it grows.

    What `push` and `finish` return adds up to `text`, and is never taken back: characters come whole, text that
    could be the start of a stop string waits until it is not, white space around the answer is left out. White
    space before the answer does not count for stop strings.

    Attributes:
        token_ids: what was pushed.
        text: what was returned so far; the answer once `finish_reason` is set.
        finish_reason: None while it grows.
    """

    def __init__(self, tokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._read = ""  # text of all tokens that make whole characters, white space included
        self._spans: list[tuple[int, int]] = []  # in `_read`, of those tokens
        # Tokenizers join words by what stands before, so the previous group is decoded again with the new one.
        self._context = 0
        self._pending = 0

    @property
    def token_spans(self) -> list[tuple[int, int]]:
        """Character range in `text` of each token; tokens that make one character together share its range.

        The range of a token outside the text (a stop string, white space at the ends) is empty.
        """
        lead, end = self._lead, len(self.text)
        unread = [(len(self._read),) * 2] * (len(self.token_ids) - len(self._spans))
        spans = [*self._spans, *unread]
        return [(min(max(a - lead, 0), end), min(max(b - lead, 0), end)) for a, b in spans]

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that can be shown now. May set `finish_reason` to "stop"."""
        self.token_ids.append(token_id)
        if not self._take(whole=True):
            return ""
        visible, stopped = self._until_stop()
        if stopped:
            self.finish_reason = "stop"
            return self._show(visible)
        held = max((_overlap(visible, stop) for stop in self._stop), default=0)
        return self._show(visible[: len(visible) - held])

    def finish(self, reason: FinishReason) -> str:
        """End the text; return what was held back. Once ended, a second call does nothing."""
        if self.finish_reason is not None:
            return ""
        self._take(whole=False)
        self.finish_reason = reason
        return self._show(self._until_stop()[0])

    @property
    def _lead(self) -> int:
        return len(self._read) - len(self._read.lstrip())

    def _until_stop(self) -> tuple[str, bool]:
        visible = self._read[self._lead :]
        found = [at for at in (visible.find(stop) for stop in self._stop) if at >= 0]
        return (visible[: min(found)], True) if found else (visible, False)

    def _take(self, *, whole: bool) -> bool:
        """Read the pending tokens, unless they end within a character and `whole` is set."""
        before = self._decode(self.token_ids[self._context : self._pending])
        after = self._decode(self.token_ids[self._context :])
        if whole and after.endswith(_INCOMPLETE):
            return False
        start = len(self._read)
        self._read += after[len(before) :]
        n_new = len(self.token_ids) - self._pending
        self._spans.extend([(start, len(self._read))] * n_new)
        if n_new:
            self._context, self._pending = self._pending, len(self.token_ids)
        return True

    def _decode(self, token_ids: list[int]) -> str:
        if not token_ids:
            return ""
        # Cleaning up would change text that has been shown.
        return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _show(self, text: str) -> str:
        piece = text.rstrip()[len(self.text) :]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a start of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
