"""The folder of an analysis: samples, splits, programs and journal, for one process at a time."""

import fcntl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pockengine.analysis.journal import Journal
from pockengine.analysis.result import Settings
from pockengine.analysis.samples import write_samples
from pockengine.analysis.splits import Sizes, write_splits
from pockengine.analysis.trials import Lab, Progress
from pockengine.data.base import Dataset
from pockengine.errors import AnalysisError
from pockengine.job import Job


@dataclass(frozen=True)
class Workspace:
    """A folder that holds the samples, and splits of these sizes."""

    folder: Path
    sizes: Sizes

    def lab(
        self,
        job: Job,
        settings: Settings,
        workers: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Lab:
        """What runs trials here. Raises AnalysisError where the journal is another analysis's."""
        journal = Journal(self.folder / "journal.jsonl", settings.to_json())
        return Lab(job, self.folder, settings.recipe, journal, workers, progress)


@contextmanager
def workspace(
    folder: str | Path | None, sets: Sequence[Dataset], seeds: Sequence[int], most: Sizes
) -> Iterator[Workspace]:
    """The folder, with the samples and a split for each seed of `most` so many samples on either
    side; without one, a folder that goes when the work is done.

    Raises AnalysisError while another process works there, and for data of which nothing can be
    measured.
    """
    with _place(folder) as place, _alone(place):
        write_samples(sets, place / "samples")
        yield Workspace(place, write_splits(sets, seeds, most, place / "splits"))


@contextmanager
def _place(folder: str | Path | None) -> Iterator[Path]:
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)
    else:
        with tempfile.TemporaryDirectory(prefix="pockengine-") as made:
            yield Path(made)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps others out of a folder; the system lets go of it when the process ends, however."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnalysisError(
                f"another analysis or check is at work in {folder}; wait until it ends, or choose "
                "another folder"
            ) from None
        except OSError as error:
            raise AnalysisError(f"{folder} cannot be locked ({error}); choose another") from error
        yield
