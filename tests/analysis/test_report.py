"""The page of an analysis: one well-formed file that loads nothing, whatever names are in it."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import small_task
import torch
from torch import nn

import pockengine as pe
from pockengine.analysis.check import Check
from pockengine.analysis.estimate import estimate
from pockengine.analysis.plots import CHOSEN, bars, contributions, costs, pareto
from pockengine.analysis.report import SearchReport, memory, presets_beside, write_report
from pockengine.analysis.result import Contribution, Start
from pockengine.analysis.search import RatedScheme
from pockengine.analysis.searcher import Searcher
from pockengine.analysis.statistics import Interval, Spread
from pockengine.ir.graph import Graph

ODD = """<script>alert("1")</script> & $x_1$ 'y'"""
VOID = {"meta"}


class Block(nn.Module):
    """As MobileNetV2's: 1x1 convolution, then one over space."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.deep(torch.relu(self.wide(x)))


class Last(nn.Module):
    """A convolution and the head, as MobileNetV2 ends."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(8)), Last())
    return pe.import_torch(model, torch.zeros(2, 4, 6, 6))


@pytest.fixture(scope="module")
def estimated(graph: Graph) -> pe.Analysis:
    x = np.random.default_rng(0).normal(size=(64, 4, 6, 6)).astype(np.float32)
    return estimate(graph, (x, np.arange(64) % 3), "weight_norm", batch=8)


@pytest.fixture(scope="module")
def analysis(estimated: pe.Analysis) -> pe.Analysis:
    """As if it had been measured."""
    rows = tuple(
        Contribution(c.name, c.ratio, (c.mean / 10, c.mean / 10 - 0.01))
        for c in estimated.contributions
    )
    starts = (Start(0, (0.5, 0.52)), Start(8, (0.6, 0.58)))
    settings = replace(estimated.settings, metric="accuracy", seeds=(0, 1), validation_samples=20)
    return replace(
        estimated,
        settings=settings,
        contributions=rows,
        starts=starts,
        last=8,
        spread=Spread(0.01, 9),
    )


@pytest.fixture(scope="module")
def searcher(analysis: pe.Analysis) -> Searcher:
    return analysis.searcher(target=pe.Target.host(threads=1))


class Outline(HTMLParser):
    """Every element is closed in its place, and nothing is loaded from anywhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object", "a")
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "style"):
                assert "://" not in (value or "")
                assert name == "style" or (value or "").startswith("#")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def no_addresses(text: str) -> None:
    for address in re.findall(r"""(?:https?:)?//[^\s"'<>]+""", text):
        assert address.startswith(("http://www.w3.org/", "//www.w3.org/", "//W3C//DTD")), address


def test_the_page_of_a_search(analysis: pe.Analysis, searcher: Searcher, tmp_path: Path) -> None:
    least = searcher.oracle(searcher.space.head).memory_bytes
    found = searcher.find(least + 20_000)
    beside = presets_beside(analysis, searcher)
    check = Check(found.gain, Interval(0.03, 0.01, 0.05, 2), (0.6, 0.6))
    path = tmp_path / "page.html"
    write_report(path, analysis, SearchReport(found, searcher.space, searcher.job, beside, check))
    text = path.read_text()
    headings = Outline(text).headings
    assert headings == [
        "The common start",
        "What each tensor brings",
        "What each tensor costs",
        "The scheme that was chosen",
        "Gain, memory and time",
        "Before and after",
        "Memory of a step",
    ]
    no_addresses(text)
    for words in ("inverted_bottleneck", "chosen", "the chosen scheme, measured", "0.wide.weight"):
        assert words in text
    write_report(path, analysis, SearchReport(found, searcher.space, searcher.job, beside, check))
    assert path.read_text() == text  # the same page, byte for byte


def test_a_start_without_biases_is_the_head_alone(
    analysis: pe.Analysis, searcher: Searcher, tmp_path: Path
) -> None:
    found = searcher.find()
    search = SearchReport(found, searcher.space, searcher.job)
    path = tmp_path / "page.html"
    write_report(path, replace(analysis, last=0), search)
    text = path.read_text()
    assert "<td>the head alone (chosen)</td>" in text and "last 0" not in text
    assert "<td>the head and the biases of the last 8 blocks</td>" in text
    assert [str(Start(last, ())) for last in (0, 1)] == [
        "the head alone",
        "the head and the biases of the last block",
    ]
    write_report(path, analysis, search)
    assert "<td>the head and the biases of the last 8 blocks (chosen)</td>" in path.read_text()


def test_both_timelines_have_one_scale(searcher: Searcher) -> None:
    """Their axes are the same, and the areas of the scheme do not reach the top."""
    head = replace(searcher.find(), shares=searcher.space.head.shares)
    pictures = memory(SearchReport(head, searcher.space, searcher.job))
    ticks = [re.findall(r">([\d.]+ [kM]B)<", picture) for picture in pictures.values()]
    assert ticks[0] == ticks[1] and len(ticks[0]) > 3
    tops = [
        min(float(y) for y in re.findall(r"[\d.]+,([\d.]+)[ \"]", "".join(areas)))
        for picture in pictures.values()
        if (areas := re.findall(r"<polygon[^>]*>", picture))
    ]
    assert tops[0] == 0.0 and tops[1] > 50


def test_measurements_that_cannot_be_told_apart_are_said_to_be(
    analysis: pe.Analysis, tmp_path: Path
) -> None:
    noisy = replace(analysis, spread=Spread(5.0, 9))
    (same,) = set(noisy.gains.values())
    said = "The measurements cannot be told apart: they differ by no more than their noise"
    assert noisy.caveat.startswith(said) and f"{same:+.4f}" in noisy.caveat
    write_report(tmp_path / "noisy.html", noisy)
    assert said in " ".join((tmp_path / "noisy.html").read_text().split())
    clear = replace(analysis, spread=Spread(1e-4, 9))
    assert clear.caveat == ""
    write_report(tmp_path / "page.html", clear)
    assert "told apart" not in (tmp_path / "page.html").read_text()


def test_presets_are_those_that_find_weights(analysis: pe.Analysis, searcher: Searcher) -> None:
    beside = presets_beside(analysis, searcher)
    assert {"inverted_bottleneck", "bottleneck"} <= set(beside)
    preset = beside["inverted_bottleneck"]
    assert preset.gain == analysis.predict(preset.scheme) > 0
    assert preset.cost == searcher.oracle(preset.scheme)
    small = estimate(small_task.graph(), small_task.samples(64), "weight_norm")
    assert presets_beside(small, small.searcher()) == {}


def test_the_page_of_an_estimate(estimated: pe.Analysis, tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", estimated)
    text = (tmp_path / "page.html").read_text()
    assert Outline(text).headings == ["Biases", "What each tensor brings"]
    assert "Estimated by weight_norm from 64 samples" in text
    assert "interval" not in text and "measured" not in text


def test_names_are_escaped(analysis: pe.Analysis, tmp_path: Path) -> None:
    rows = (Contribution(ODD, 1.0, (0.1, 0.2)), Contribution(ODD, 0.5, (0.1,)))
    odd = replace(analysis, contributions=rows, graph=None)
    write_report(tmp_path / "page.html", odd)
    text = (tmp_path / "page.html").read_text()
    Outline(text)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text and "$x_1$" in text


def test_figures_are_well_formed(analysis: pe.Analysis, searcher: Searcher) -> None:
    point = RatedScheme(searcher.space.head, 0.1, searcher.oracle(searcher.space.head))
    figures = [
        contributions(analysis),
        contributions(replace(analysis, spread=Spread(float("inf"), 0))),
        costs(searcher.space),
        pareto([point], {ODD: point, CHOSEN: point}),
        bars({ODD: 0.5, "b": 0.25}, "accuracy"),
    ]
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.tag.endswith("svg")
        no_addresses(figure)
    assert "ms of a step" not in figures[2] + figures[3]  # nobody timed any
