"""One shop and one warehouse for all tests of the demo."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from towpath.demo.files import write_project
from towpath.demo.shop import Shop, append, open_shop
from towpath.demo.story import STORY


@pytest.fixture(scope="session")
def shop() -> Shop:
    return open_shop(np.random.default_rng(7))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Path:
    """The demo project with its history and ten more days, which are a future for whoever asks as of the story's start."""
    folder = tmp_path_factory.mktemp("shop")
    write_project(folder)
    append(
        folder / "warehouse" / "shop",
        shop,
        STORY.history_since,
        STORY.start + timedelta(days=10),
        cents_on=STORY.cents_on,
    )
    return folder
