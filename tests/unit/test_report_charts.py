"""The charts: round ticks, whole SVG, nothing drawn from nothing, and no spike lost."""

import xml.etree.ElementTree as ElementTree

import pytest

from luthier.core.charts import Notes, Series, interval_chart, legend, line_chart, log_ticks, nice_ticks, smooth, thin
from luthier.core.charts import tick_text as text


def _chart(*series: Series, **options: object) -> str:
    return line_chart(series, title="Loss <by> step", x_label="step", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (1.62, 2.31, 5, [1.6, 1.8, 2.0, 2.2, 2.4]),
        (0, 2e-4, 3, [0, 1e-4, 2e-4]),
        (-3, 7, 4, [-5, -2.5, 0, 2.5, 5, 7.5]),
        (2, 2, 4, [1.8, 1.9, 2.0, 2.1, 2.2]),
        (0, 0, 2, [-1, 0, 1]),
    ],
)
def test_ticks_are_round_and_enclose_the_data(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, count) == pytest.approx(ticks)


def test_tick_labels() -> None:
    assert [text(tick, [0, 2.5, 5]) for tick in (0, 2.5, 5)] == ["0", "2.5", "5.0"]
    assert [text(tick, [-0.25, 0, 0.25]) for tick in (-0.25, 0)] == ["−0.25", "0"]
    assert text(1500, [1000, 1500]) == "1,500"
    assert text(2e-4, [0, 1e-4, 2e-4]) == "2e−4"
    assert log_ticks(0.5, 150) == [1, 10, 100]


def test_a_chart_is_xml_with_a_name() -> None:
    notes = Notes(marks=[(1, "<epoch>")])
    svg = _chart(Series("a & b", [0, 1, 2], [3, 2, 1], "points", best=2), notes=notes, end_label="best <1>")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "Loss <by> step" and root.get("role") == "img"
    assert len(root.findall("circle")) == 3 + 1  # the points and the ring


def test_points_lie_where_they_belong() -> None:
    root = ElementTree.fromstring(_chart(Series("a", [0, 10], [1, 0], "points"), width=268, height=152, zero=True))
    circles = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.findall("circle")]
    assert circles == [(56, 12), (256, 112)]  # the margins are 56 left, 12 right, 12 above, 40 below


def test_nothing_is_drawn_from_one_point() -> None:
    assert _chart() == "" and _chart(Series("a", [1], [1])) == ""
    assert _chart(Series("a", [], []), Series("b", [0, 1], [1, 1])) != ""


def test_a_wide_range_is_logarithmic_and_says_so() -> None:
    assert "logarithmic scale" in _chart(Series("a", [0, 1, 2], [0.1, 1, 200]))
    assert "logarithmic scale" not in _chart(Series("a", [0, 1, 2], [0, 1, 200]))


def test_long_curves_are_thinned_but_keep_their_spikes() -> None:
    ys = [1.0] * 50_000
    ys[31_234], ys[31_235] = 9.0, -9.0
    xs, kept = thin(list(range(50_000)), ys)
    assert len(xs) <= 482 and (xs[0], xs[-1]) == (0, 49_999)
    assert kept[xs.index(31_234)] == 9.0 and kept[xs.index(31_235)] == -9.0


def test_smoothing_does_not_lag() -> None:
    means, over = smooth([float(n) for n in range(400)])
    assert over == 21 and means[200] == 200 and means[0] == 5 and means[-1] == 394
    assert smooth([3.0, 1.0]) == ([3.0, 1.0], 1) and smooth([]) == ([], 1)


def test_the_interval_is_drawn_with_zero_in_view() -> None:
    root = ElementTree.fromstring(interval_chart(21.2, (18.9, 23.4), width=400))
    place = {line.get("class"): float(line.get("x1", "")) for line in root.findall("line")}
    value = float(root.findall("circle")[0].get("cx", ""))
    assert 24 <= place["zero"] < place["bar"] < value < 376


def test_the_legend_leaves_out_curves_without_a_name() -> None:
    assert legend([Series("<a>", [], []), Series("", [], [])]).count("<i ") == 1


def _paths(svg: str, kind: str) -> list[str]:
    return [path.get("d", "") for path in ElementTree.fromstring(svg).findall("path") if kind in path.get("class", "")]


def test_a_line_is_lifted_over_a_gap() -> None:
    curve = Series("a", [1, 2, 8, 9], [1, 1, 1, 1], gaps=[(2, 7)])
    (whole,) = _paths(_chart(Series("a", [1, 2, 8, 9], [1, 1, 1, 1])), "curve")
    (lifted,) = _paths(_chart(curve), "curve")
    assert whole.count("M") == 1 and lifted.count("M") == 2 and lifted.count("L") == 2


def test_an_interval_is_an_area_within_the_axes() -> None:
    svg = _chart(Series("a", [0, 10], [1, 2], lows=[0, 1], highs=[2, 5]), width=268, height=152)
    (area,) = _paths(svg, "area")
    heights = [float(point.split()[1].rstrip("Z")) for point in area[1:].split("L")]
    assert heights == [78.7, 28.7, 95.3, 112.0]  # 2 and 5 above, then back 1 and 0 below, on an axis from 0 to 6


def test_notes_are_drawn_and_in_view() -> None:
    notes = Notes(bands=[(20, 30, "rewound")], spots=[(40, "step 40 skipped")], levels=[(9, "limit <9>")])
    root = ElementTree.fromstring(_chart(Series("a", [0, 10], [1, 2]), notes=notes, width=268, height=152))
    (band,) = root.findall("rect")
    assert (float(band.get("x", "")), float(band.get("width", ""))) == (56 + 100, 50)  # the axis goes to 40
    (spot,) = (path for path in root.findall("path") if path.get("class") == "spot")
    assert spot.get("d", "").startswith("M251.5") and spot.findtext("title") == "step 40 skipped"
    assert [line.get("y1") for line in root.findall("line") if line.get("class") == "level"] == ["22.0"]
    assert "rewound" in [text.text for text in root.findall("text")]


def test_a_logarithmic_x_axis_names_powers_of_ten() -> None:
    svg = _chart(Series("a", [1e-6, 1e-4, 1e-2], [1, 2, 3], "points"), log_x=True, width=268, height=152)
    root = ElementTree.fromstring(svg)
    assert [float(dot.get("cx", "")) for dot in root.findall("circle")] == [56, 156, 256]
    assert {"1e−6", "1e−4", "1e−2"} <= {text.text for text in root.findall("text")}


def test_spots_have_bars_and_names() -> None:
    curve = Series("a", [1, 2], [3, 4], "spots", lows=[2, 3], highs=[4, 5], left=[0.5, 1.5], right=[1.5, 2.5],
                   names=["<0.5>", ""])  # fmt: skip
    root = ElementTree.fromstring(_chart(curve))
    assert len([line for line in root.findall("line") if line.get("class") == "whisker"]) == 4
    assert "<0.5>" in [text.text for text in root.findall("text")]
    circles = root.findall("circle")
    assert len(circles) == 2 and float(circles[0].get("cx", "")) > 56  # not on the edge


def test_one_x_for_all_points_is_drawn() -> None:
    assert "nan" not in _chart(Series("a", [5, 5], [1, 2], "points"))
