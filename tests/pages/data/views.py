"""The data page over the demo set, for tests."""

from lavie.data.shards.index import load_index
from lavie.pages.data.app import Browsing
from lavie.pages.data.batch import RunBatches
from lavie.pages.data.clips import Shown
from lavie.pages.data.excluded import Excluded
from lavie.pages.data.table import SampleTable
from tests.cascades import stage_config


def some_browsing(demo, folder, config=True):
    """Return the page of the demo set in a folder, with the batches of a run if there is to be one."""
    (folder / "made").mkdir()
    exclude = folder / "exclude.txt"
    exclude.touch()
    data = {"num_frames": 4, "num_images": 1, "height": 24, "width": 32, "fps": 8, "train": [str(demo / "train")]}
    run = stage_config("base", data=data | {"exclude": str(exclude)}, train_batch_size=2, max_train_steps=9)
    table = SampleTable(load_index([str(demo / "train")]))
    return Browsing(table, Excluded(exclude), Shown(folder / "made"), RunBatches(run) if config else None)
