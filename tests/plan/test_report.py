"""The figures and pictures of a plan."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import cnn, random_schedule

from pockengine.errors import GraphError
from pockengine.passes.reorder import reorder
from pockengine.plan.picture import HEIGHT, most_alive, timeline_svg
from pockengine.plan.planner import Plan, plan
from pockengine.plan.report import (
    extra_training_bytes,
    layer_table,
    layers,
    peak_by_kind,
    table,
    timeline,
    timeline_text,
    to_json,
    training_bytes,
)


def program(train: int = 4) -> Plan:
    schedules = {
        "train": reorder(cnn(depth=8, size=16, train=train)),
        "predict": reorder(cnn(depth=8, size=16, train=0)),
    }
    return plan(schedules)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_the_fullest_step_is_the_lower_bound(seed: int) -> None:
    planned = plan({"train": reorder(random_schedule(np.random.default_rng(seed)))})
    live = [sum(sizes.values()) for sizes in timeline(planned, "train")]
    persistent = sum(slot.nbytes for slot in planned.persistent.values())
    at_ends = persistent + sum(
        slot.nbytes
        for slot in planned.entries["train"].slots.values()
        if slot.kind in ("input", "output")
    )
    assert max(live) <= planned.lower_bound <= max(*live, at_ends)


def test_the_table_shows_every_category_and_the_bound() -> None:
    planned = program()
    text = table(planned)
    peak = peak_by_kind(planned, "train")
    assert f"saved activations  {peak['saved']:,}" in " ".join(text.split()).replace(
        "saved activations ", "saved activations  "
    )
    for word in ("frozen weights", "trained weights", "optimizer state", "lower bound", "predict"):
        assert word in text
    assert f"arena: {planned.arena_bytes:,} bytes; lower bound {planned.lower_bound:,}" in text


def test_sparse_training_saves_less() -> None:
    full, sparse = program(train=8), program(train=2)
    assert peak_by_kind(sparse, "train")["saved"] < peak_by_kind(full, "train")["saved"]
    assert extra_training_bytes(sparse) < extra_training_bytes(full)


def test_a_step_in_parts_takes_what_its_parts_take() -> None:
    schedules = {
        "train": reorder(cnn(depth=8, size=16, train=2)),
        "accumulate": reorder(cnn(depth=8, size=16, train=8)),
        "predict": reorder(cnn(depth=8, size=16, train=0)),
    }
    planned = plan(schedules)
    more = planned.entries["accumulate"].end - planned.entries["train"].end
    last_alone = replace(planned, entries={n: planned.entries[n] for n in ("train", "predict")})
    assert more > 0
    assert extra_training_bytes(planned) == extra_training_bytes(last_alone) + more
    assert training_bytes(planned) == planned.entries["accumulate"].end


def test_extra_training_bytes_needs_both_entry_points() -> None:
    planned = plan({"train": reorder(cnn(depth=2, size=8))})
    with pytest.raises(GraphError, match="the plan has no entry 'predict', only train"):
        extra_training_bytes(planned)


def test_the_picture_has_a_column_for_a_few_steps_and_a_legend() -> None:
    text = timeline_text(program(), "train", width=40, height=8)
    lines = text.splitlines()
    assert len(lines) == 11 and all(len(line) == 14 + 40 for line in lines[:8])
    assert "S saved activations" in lines[-1] and "S" in "".join(lines[:8])
    assert "MB |" in lines[0] and "steps of 'train'" in lines[-2]


def drawn(planned: Plan, top: int | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(timeline_svg(planned, "train", top))


def words_of(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.findall("{*}text")]


def ticks_of(picture: ElementTree.Element) -> list[str]:
    return [word for word in words_of(picture) if re.fullmatch(r"[\d.]+ MB", word)]


def test_the_picture_has_axes_with_units_and_a_legend_that_fits() -> None:
    planned = program()
    picture, used = drawn(planned), peak_by_kind(planned, "train")
    words = words_of(picture)
    labelled = [w for w in words if ", up to " in w]
    assert len(picture.findall("{*}polygon")) == len(labelled) >= sum(map(bool, used.values()))
    assert any(w.startswith("saved activations, up to ") for w in labelled)
    ticks = ticks_of(picture)
    assert ticks[0] == "0 MB" and 5 <= len(ticks) <= 11
    assert f"the {len(planned.entries['train'].schedule.steps)} steps of 'train'" in words
    left, _, width, _ = map(float, picture.attrib["viewBox"].split())
    for text in picture.findall("{*}text"):  # 12 px letters are at most 7 px wide on average
        if text.attrib["text-anchor"] == "start":
            assert float(text.attrib["x"]) + 7 * len(text.text or "") < left + width


def highest(picture: ElementTree.Element) -> float:
    """How high its areas reach, of the height of the picture."""
    points = (p for area in picture.findall("{*}polygon") for p in area.attrib["points"].split())
    return 1 - min(float(point.split(",")[1]) for point in points) / HEIGHT


def test_pictures_share_a_scale_where_they_are_given_one() -> None:
    full, sparse = program(train=8), program(train=2)
    top = most_alive(full, "train")
    assert highest(drawn(full)) == highest(drawn(sparse)) == 1.0
    share = most_alive(sparse, "train") / top
    assert highest(drawn(sparse, top)) == pytest.approx(share, abs=1e-3) and share < 0.9
    assert ticks_of(drawn(sparse, top)) == ticks_of(drawn(full))


def test_layers_sum_up_what_they_compute() -> None:
    schedule = reorder(cnn(depth=3, size=8))
    found = {layer.source: layer for layer in layers(schedule)}
    assert found["conv0.1"].weights == 4 * 3 * 64
    assert found["conv0.1"].stored == found["relu0"].stored == 4 * 8 * 8 * 8 * 64
    assert layer_table(schedule).splitlines()[-1].startswith("total")


def test_the_json_form_names_every_offset() -> None:
    planned = program()
    data = json.loads(json.dumps(to_json(planned)))
    train = planned.entries["train"]
    values = train.schedule.graph.values()
    for number, slot in data["entries"]["train"]["slots"].items():
        assert slot["offset"] == planned.offset("train", values[int(number)])
    assert len(data["entries"]["train"]["steps"]) == len(train.schedule.steps)
    assert data["persistent"]["w7.1"]["kind"] == "trained"
