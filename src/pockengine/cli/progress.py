"""How far a verb is: a bar on a terminal, plain lines elsewhere; and what Ctrl-C leaves."""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from pockengine.analysis.trials import Progress

EVERY = 20.0  # seconds between two lines of one stage
INTERRUPTED = 130  # the exit code, as shells have it
Tell = Callable[[Progress], None]


@contextmanager
def shown() -> Iterator[Tell]:
    """Shows what it is told on the standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TextColumn("{task.fields[left]}"), console=console, transient=True) as bar:
        task = bar.add_task("reading samples", total=None, left="")

        def tell(at: Progress) -> None:
            left, total = in_words(at.seconds_left), at.expected or None
            bar.update(task, description=at.stage, completed=at.done, total=total, left=left)

        yield tell


class Lines:
    """A line for each new stage, and for a long one every 20 seconds."""

    def __init__(self) -> None:
        self._stage, self._next = "", 0.0

    def __call__(self, at: Progress) -> None:
        now = time.monotonic()
        if at.stage != self._stage or now >= self._next:
            self._stage, self._next = at.stage, now + EVERY
            left = in_words(at.seconds_left)
            line = f"{at.stage}: {at.done} of about {at.expected}" if at.expected else at.stage
            typer.echo(f"{line}, {left}" if left else line, err=True)


def stage(words: str) -> Progress:
    """Something that takes seconds, nobody knows how many."""
    return Progress(words, 0, 0, 0.0)


def counted(tell: Tell, words: str) -> Callable[[int, int], None]:
    """Tells how many of something are done, and the time left by what they took so far."""
    started = time.monotonic()
    tell(stage(words))

    def told(done: int, of: int) -> None:
        left = (time.monotonic() - started) / done * (of - done)
        tell(Progress(words, done, of, left))

    return told


def in_words(seconds_left: float) -> str:
    """
    >>> in_words(0.0), in_words(75.0), in_words(600.0)
    ('', '75 s left', '10 min left')
    """
    if not seconds_left:
        return ""
    rounded = max(1, round(seconds_left))
    return f"{rounded} s left" if rounded < 120 else f"{round(seconds_left / 60)} min left"


@contextmanager
def native_prints_aside() -> Iterator[None]:
    """What native libraries print goes to the standard error: HiGHS says a word now and then."""
    if sys.stdout is None:  # closed by who started the program
        yield
        return
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C has a buffer of its own
        os.dup2(ours, 1)
        os.close(ours)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Ctrl-C ends the program with words on how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped. What was measured is kept in {folder}; the same command goes on from there.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
