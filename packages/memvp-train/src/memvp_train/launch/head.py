"""Whether Ray's head is alive: what is blocked in Ray's calls hears of its death only when Ray ends the program.

Ray's own library waits for its head (the GCS) for a minute and then ends the process from C++, past every `finally`.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from memvp_train.launch.supervision import LaunchError

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_FOR_AN_ANSWER = 5.0
_log = logging.getLogger(__name__)
# Nobody else's: ctrl-C is Ray's while it trains, and SIGTERM is the caller's.
_SIGNAL = signal.SIGUSR1


@contextmanager
def watching_head(address: str, *, patience: float, mend: str) -> Iterator[None]:
    """End the block with a LaunchError when nothing has answered at host:port `address` for `patience` seconds.

    `mend` says what to do then. Only the main thread can be interrupted; for another one it is only logged.
    """
    watch = _Watch(address, patience, mend)
    if threading.current_thread() is not threading.main_thread():
        with watch.running(interrupt=False):
            yield
        return
    before = signal.signal(_SIGNAL, lambda number, frame: watch.interrupt(before, frame))
    try:
        with watch.running(interrupt=True):
            yield
    except KeyboardInterrupt:
        if watch.lost.is_set():
            raise LaunchError(f"Ray's head at {address} died or cannot be reached; {mend}") from None
        raise
    finally:
        signal.signal(_SIGNAL, before)


class _Watch:
    """A thread that looks whether the head answers."""

    def __init__(self, address: str, patience: float, mend: str) -> None:
        host, _, port = address.rpartition(":")
        self._place, self._patience, self._mend = (host.strip("[]"), int(port)), patience, mend
        self.lost, self._stop = threading.Event(), threading.Event()

    @contextmanager
    def running(self, *, interrupt: bool) -> Iterator[None]:
        thread = threading.Thread(target=self._look, args=(interrupt,), name="watching-head", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def interrupt(self, before: object, frame: FrameType | None) -> None:
        """In the main thread. Ray's calls let nothing but a KeyboardInterrupt through."""
        if self.lost.is_set():
            raise KeyboardInterrupt
        if callable(before):
            before(_SIGNAL, frame)
        elif before == signal.SIG_DFL:  # somebody else's signal does what it did
            signal.signal(_SIGNAL, signal.SIG_DFL)
            os.kill(os.getpid(), _SIGNAL)

    def _look(self, interrupt: bool) -> None:
        silent_since: float | None = None
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            if self._answers():
                silent_since = None
                continue
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                how_long = (*self._place, self._patience, self._mend)
                _log.warning("Ray's head at %s:%d does not answer; after %g s without it this ends (%s)", *how_long)
            elif now - silent_since >= self._patience:
                self.lost.set()
                if interrupt:
                    signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
                return

    def _answers(self) -> bool:
        try:
            socket.create_connection(self._place, timeout=_SECONDS_FOR_AN_ANSWER).close()
        except OSError:
            return False
        return True
