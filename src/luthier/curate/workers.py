"""Worker processes: how they start, and how batches go to them.

They are started afresh from a server that has the steps loaded, not forked from the process that asks: a fork of a
process with threads can hang. The server needs most of a second to load them; whoever knows early that there will be
work calls `prepare`, and it loads while they go on.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from typing import TypeVar

PRELOAD = (
    "luthier.curate.run", "luthier.curate.intake", "luthier.curate.repair", "luthier.curate.defects",
    "luthier.curate.language", "luthier.curate.slop", "luthier.curate.personal", "luthier.curate.exact",
    "luthier.curate.near", "luthier.curate.sides", "luthier.curate.leaks", "luthier.curate.report_summary",
    "luthier.curate.materialise", "luthier.curate.gather", "pyarrow.parquet", "pyarrow.compute",
)  # fmt: skip
CLI = "luthier.cli"  # what a worker imports of itself when the command line is the main program
WARM = "luthier.curate.warm"  # to be loaded too where languages will be told
AHEAD = 4  # batches a worker has before it: it never waits, and what is made does not pile up
T = TypeVar("T")
Item = TypeVar("Item")


def _context(more: Sequence[str] = ()) -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload([*more, *PRELOAD])
    return context


def prepare(more: Sequence[str] = ()) -> None:
    """Start the server of the workers if it does not run, and return while it loads the steps and these modules."""
    _context(more)
    ensure_running()


def open_pool(number: int) -> ProcessPoolExecutor:
    """So many workers, which start as they are needed."""
    return ProcessPoolExecutor(number, mp_context=_context())


def ordered(
    pool: ProcessPoolExecutor | None, function: Callable[[Item], T], items: Iterable[Item], workers: int
) -> Iterator[T]:
    """The function of each item, in order; in the pool, or here. Items are taken as workers get free."""
    call = partial(_without_gc, function)
    if pool is None:
        yield from map(call, items)
        return
    waiting: deque[Future[T]] = deque()
    remaining = iter(items)
    for item in islice(remaining, AHEAD * workers):
        waiting.append(pool.submit(call, item))
    while waiting:
        made = waiting.popleft().result()
        for item in islice(remaining, 1):
            waiting.append(pool.submit(call, item))
        yield made


def _without_gc(function: Callable[[Item], T], item: Item) -> T:
    """A batch makes ten thousands of objects and no cycles; Python would look through them for cycles in vain."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return function(item)
    finally:
        if collects:
            gc.enable()
