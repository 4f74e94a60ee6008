"""The compiled hot loop: answers of the responder, learnt one by one and given out by C. Optional: where it was not
built, everything is answered by Python, with the same bytes."""

from __future__ import annotations

import ctypes
import importlib.machinery
from pathlib import Path
from typing import Final

from routing.core.answer import Lesson
from routing.core.geo import PlaceMap

LEFT: Final = 0
ANSWERED: Final = 1
LIMITED: Final = 2
"""What became of a query: it is Python's to answer; it is answered; its network has had too many like it."""

_BY_PLACE, _BY_SLOT, _BY_DNSSEC = 1, 2, 4
_HELD_MAX: Final = 200_000
_RCODES: Final = 16


class BatchMemory(ctypes.Structure):
    """`struct hot_batch`: the memory of a batch, by address."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("received", "sent", "queries", "answers", "names", "controls")),
        *((name, ctypes.c_uint64) for name in ("whats", "out_sizes")),
        *((name, ctypes.c_uint32) for name in ("count", "reserved")),
    )


class LoopMemory(ctypes.Structure):
    """`struct hot_loop`: a socket, its batches, and how they are laid out."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("table", "receiving", "waiting", "dropped", "shed")),
        *((name, ctypes.c_int32) for name in ("descriptor", "bell")),
        *((name, ctypes.c_uint32) for name in ("batches", "batch", "slot_bytes", "name_bytes", "name_step")),
        *((name, ctypes.c_uint32) for name in ("source_at", "source_bytes", "control_bytes", "control_step")),
        *((name, ctypes.c_uint32) for name in ("interface_at", "out_step")),
        *((name, ctypes.c_uint32) for name in ("filling", "taken", "done", "rung", "stopping")),
    )


def load() -> ctypes.CDLL | None:
    """The library, or None when it was not built for this Python."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_hot_answers{suffix}")
        if path.exists():
            try:
                return _typed(ctypes.CDLL(str(path)))
            except (OSError, AttributeError):
                return None
    return None


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, u32, u64, text = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p
    for name, result, arguments in (
        ("hot_new", pointer, (u32, u64)),
        ("hot_free", None, (pointer,)),
        ("hot_forget", None, (pointer, pointer)),
        ("hot_learn_v6", None, (pointer, text, u32)),
        ("hot_time", None, (pointer, u32, u32)),
        ("hot_policy", None, (pointer, u32, text)),
        ("hot_rcodes", pointer, (pointer,)),
        ("hot_learn", ctypes.c_int, (pointer, text, *(u32,) * 5, text, u32, pointer, text)),
        (
            "hot_answer",
            u32,
            (pointer, u32, pointer, pointer, u32, pointer, u32, u32, pointer, u32, pointer, u32, pointer),
        ),
        ("hot_run", None, (pointer,)),
        ("hot_stop", None, (pointer,)),
        ("hot_take", ctypes.c_int32, (pointer,)),
        ("hot_done", None, (pointer,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _address(memory: memoryview[int]) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory.cast("B")))


class HotAnswers:
    """What one process has learnt. Its methods are for one thread; the loops of listeners have threads of their own."""

    def __init__(self, library: ctypes.CDLL, seed: int, held_max: int = _HELD_MAX):
        self._library = library
        self._table = library.hot_new(held_max, seed)
        if not self._table:
            raise MemoryError("no memory for learnt answers")
        self._places: PlaceMap | None = None
        self._rcodes = (ctypes.c_uint64 * _RCODES).from_address(library.hot_rcodes(self._table))
        self.answer = library.hot_answer
        """`hot_answer` of the library; its first argument is `table`."""
        self.run, self.stop, self.take, self.done = (
            library.hot_run,
            library.hot_stop,
            library.hot_take,
            library.hot_done,
        )
        """Those of `hot_loop.h`; their argument is the address of a `LoopMemory`."""

    @property
    def table(self) -> int:
        """The address of the table."""
        return int(self._table)

    @property
    def rcodes(self) -> list[int]:
        """Answers given, by response code."""
        return list(self._rcodes)

    def close(self) -> None:
        """Frees the memory; nothing else may be called after."""
        if self._table:
            self._library.hot_free(self._table)
            self._table = None

    def forget(self, places: PlaceMap) -> None:
        """Answers have changed: learn anew, by this map."""
        table = places.table_v4
        self._library.hot_forget(self._table, None if table is None else _address(table))
        # Kept, for C reads its memory, and sees what Python adds to it; the old one no more.
        self._places = places

    def take_policy(self, per_second: int, secret: bytes | None) -> None:
        """How many like answers a second a network gets, 0 for no limit; the secret of cookies, None for none."""
        self._library.hot_policy(self._table, per_second, secret)

    def take_time(self, second: int, cookie_time_s: int) -> None:
        """The second that limits go by, and the time in cookies."""
        self._library.hot_time(self._table, second & 0xFFFFFFFF, cookie_time_s & 0xFFFFFFFF)

    def learn(self, lesson: Lesson) -> None:
        """Answers the like of this from now on."""
        if lesson.by_place and lesson.network_v6:
            self._library.hot_learn_v6(self._table, lesson.network_v6, lesson.scope << 16 | (lesson.bucket + 1))
        self._library.hot_learn(self._table, *lesson_arguments(lesson))


def lesson_arguments(
    lesson: Lesson,
) -> tuple[bytes, int, int, int, int, bool, bytes, int, ctypes.Array[ctypes.c_uint32], bytes]:
    """What `hot_learn` takes behind the table."""
    bodies = lesson.tail.bodies
    sizes = (ctypes.c_uint32 * len(bodies))(*map(len, bodies))
    by = _BY_PLACE * lesson.by_place | _BY_SLOT * lesson.by_slot | _BY_DNSSEC * (lesson.dnssec_ok is not None)
    heads = b"".join(lesson.tail.heads)
    where = by, lesson.bucket, lesson.slot, bool(lesson.dnssec_ok)
    return lesson.key, len(lesson.key), *where, heads, len(bodies), sizes, b"".join(bodies)
