"""One call of the engine, for code that waits, code that awaits, and code that reads piece by piece."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from kblam_engine.answers import Answer, Selected
from kblam_engine.engine import KBLaM
from kblam_engine.knowledge_base import KBSnapshot
from kblam_integrations._fields import too_late
from kblam_integrations._serving import queue_of


@dataclass(slots=True)
class EngineCall:
    """A question on its way through the engine's queue. Ending it early, in any way, ends the decoding.

    Attributes:
        engine: the engine that answers.
        chat: messages as the engine takes them.
        kb: what to answer from, as it was when the call was made.
        options: of ``KBLaM.answer``.
        timeout: seconds, waiting included; None: no limit.
        answer: the answer, once it is there.

    Raises:
        TimeoutError: whatever is asked for took longer than the timeout.
    """

    engine: KBLaM
    chat: Sequence[Mapping[str, str]]
    kb: KBSnapshot | None
    options: Mapping[str, Any]
    timeout: float | None = None
    answer: Answer | None = None

    def wait(self) -> Answer:
        """Return the answer; raises TimeoutError, and whatever went wrong."""
        future = self._submit()
        try:
            self.answer = future.result(self.timeout)
        except TimeoutError:
            raise too_late(self.timeout) from None
        finally:
            future.cancel()
        return self.answer

    async def awaited(self) -> Answer:
        """Return the answer, leaving the event loop to others meanwhile."""
        future = self._submit()
        # A cancelled task cancels the future, and that ends the decoding.
        try:
            self.answer = await asyncio.wait_for(asyncio.wrap_future(future), self.timeout)
        except TimeoutError:
            raise too_late(self.timeout) from None
        return self.answer

    def pieces(self) -> Generator[Selected | str, None, None]:
        """Yield what the answer will rest on, if there is a KB, then the text as it is written; at the end ``answer``."""
        found: queue.SimpleQueue[Selected | str | None] = queue.SimpleQueue()
        future = self._submit(found.put, found.put)
        future.add_done_callback(lambda _: found.put(None))
        ends = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            while (piece := found.get(timeout=_left(ends))) is not None:
                yield piece
            self.answer = future.result()
        except queue.Empty:
            raise too_late(self.timeout) from None
        finally:
            future.cancel()

    async def apieces(self) -> AsyncGenerator[Selected | str, None]:
        """Yield what the answer will rest on, if there is a KB, then the text as it is written; at the end ``answer``."""
        loop, found = asyncio.get_running_loop(), asyncio.Queue[Selected | str | None]()

        def tell(piece: Selected | str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(found.put_nowait, piece)

        future = self._submit(tell, tell)
        future.add_done_callback(lambda _: tell(None))
        ends = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            while (piece := await asyncio.wait_for(found.get(), _left(ends))) is not None:
                yield piece
            self.answer = future.result()
        except TimeoutError:
            raise too_late(self.timeout) from None
        finally:
            future.cancel()

    def _submit(
        self,
        on_piece: Callable[[str], object] | None = None,
        on_selected: Callable[[Selected], object] | None = None,
    ) -> Future[Answer]:
        return queue_of(self.engine).submit(self.engine, self.chat, self.kb, self.options, on_piece, on_selected)


def _left(ends: float | None) -> float | None:
    return None if ends is None else max(0.0, ends - time.monotonic())
