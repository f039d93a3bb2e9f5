"""What the console shows of a model is as of the platform's moment, also its versions and its history."""

from datetime import timedelta
from pathlib import Path

from towpath.demo.story import STORY
from towpath.platform import Platform


def test_a_page_of_then_knows_nothing_of_later(played: Path) -> None:
    with Platform.open(played) as platform:
        told = {day: platform.at(STORY.morning(day)).watch.page("demand") for day in (1, 3)}
        before = platform.at(STORY.morning(0) - timedelta(days=1)).watch.page("demand")
    assert [entry.kind for entry in told[1]["history"]] == ["promoted"]
    assert [entry.kind for entry in told[3]["history"]] == ["revived", "killed", "promoted"]
    for page in told.values():
        assert [(version["version"], version["champion"], version["passed"]) for version in page["versions"]] == [
            (1, True, True)
        ]
        assert page["versions"][0]["rules"]
    assert (before["versions"], before["history"], before["kills"]) == ([], [], ())
