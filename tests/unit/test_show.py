"""Tables, words, figures and pictures for any exhibit."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import paths
from lib.errors import UserError
from lib.show import cards, figures, pictures, published, tables, words

matplotlib.use("Agg")


def estimates() -> pd.DataFrame:
    index = pd.Index(["ViT-L/14", "RN50"], name="title")
    columns = {"family": ["ViT", "ResNet"], "auc": [4.0, np.nan], "auc_low": [3.5, np.nan], "auc_high": [4.5, np.nan]}
    return pd.DataFrame(columns, index=index).assign(top1=[70.0, 50.0], n=[384, 384])


def test_a_table_has_published_beside_ours_with_its_interval():
    table = tables.show(estimates(), "tab-x", "Caption.", {"auc": "AUC"}, published=published.averaged())
    assert list(table.cells) == ["title", "AUC, published", "AUC, ours"]
    assert list(table.cells.iloc[0]) == ["ViT-L/14", "4.42", "4.00 [3.50, 4.50]"]
    assert list(table.cells.iloc[1]) == ["RN50", "3.27", "–"]
    first, second = table.markdown().splitlines()[:2]
    assert first == "```{table} Caption." and second == ":name: tab-x"
    assert set(table._repr_mimebundle_()) == {"text/markdown", "text/html", "text/plain"}


def test_without_columns_a_table_shows_all_but_the_bounds():
    table = tables.show(estimates(), "tab-x", "Caption.", formats={"top1": ".0f"})
    assert list(table.cells) == ["title", "family", "auc", "top1", "n"]
    assert list(table.cells.iloc[0])[1:] == ["ViT", "4.00 [3.50, 4.50]", "70", "384"]


def test_a_table_of_two_levels_names_both():
    frame = estimates().reset_index().set_index(["family", "title"])
    assert list(tables.show(frame, "tab-x", "C", {"top1": "top-1"}).cells) == ["family", "title", "top-1"]


def test_columns_may_be_a_list_and_have_one_format():
    frame = estimates().rename(columns={"top1": "top_1"})
    table = tables.show(frame, "tab-x", "Caption.", ["top_1", "auc"], formats=".1f")
    assert list(table.cells.iloc[0]) == ["ViT-L/14", "70.0", "4.0 [3.5, 4.5]"] and list(table.cells)[1] == "top 1"
    assert tables.show(frame, "tab-x", "C", ["n"]).cells["n"].tolist() == ["384", "384"]  # whole numbers stay whole


def test_a_table_without_lines_or_data_is_a_card_that_says_why():
    assert "none of the models" in tables.show(estimates()[:0], "tab-x", "C").cells.iloc[0, 0]
    assert tables.show(pd.DataFrame(), "tab-x", "C", reason="no network").cells.iloc[0, 0] == "no network"


def test_a_table_says_which_column_is_missing(capsys):
    tables.show(estimates(), "tab-x", "Caption.", {"acu": "AUC"})
    assert "no column 'acu'. Did you mean 'auc'" in capsys.readouterr().err


def test_columns_of_numbers_are_flush_right_and_pipes_stay_in_their_cell():
    frame = pd.DataFrame({"name": ["a|b", "b\nc"], "value": [1.0, None], "text": ["3 px", "none"]})
    lines = tables.show(frame, "tab-x", "Caption.").markdown().splitlines()
    assert lines[4] == "|:---|---:|:---|" and lines[5].startswith(r"| a\|b |") and lines[6].startswith("| b c |")
    assert "<b>" not in tables.Table(pd.DataFrame({"x": ["<b>"]}), "t", "c").html()


def test_what_cannot_be_had_stands_as_a_card():
    card = tables.not_run("no network", "tab-x", "A table.")
    assert card.cells["not run"].tolist() == ["no network"] and card.caption == "A table (not run)"


@pytest.mark.parametrize(
    "value, spec, text",
    [(1.234, ".2f", "1.23"), (3, ".2f", "3"), (None, ".2f", "–"), (True, ".2f", "yes"), ("a", ".2f", "a"),
     (2, "+.1f", "+2.0")],
)  # fmt: skip
def test_numbers_as_they_stand_in_cells(value, spec, text):
    assert tables.number(value, spec) == text


def test_words_are_markdown_and_read_the_same_everywhere():
    assert words.say("Of 13 models,", f"{7} do.")._repr_markdown_() == "Of 13 models, 7 do."


def test_published_tables_and_their_names():
    assert published.load("mutual_knowledge_table3").loc["ViT-L/14", "auc_pca"] == 4.47
    with pytest.raises(UserError, match="Did you mean 'mutual_knowledge_table3'"):
        published.load("mutual_knowledge_tabel3")
    rows = pd.read_csv(paths.DATA / "models.csv")
    titles = rows["title"][rows["sets"].str.split().map(lambda sets: "mutual" in sets)]
    assert set(titles) == set(published.load("mutual_knowledge_table3").index)


def test_points_show_value_interval_and_reference():
    ax = figures.points(estimates().iloc[:1], x="auc", y="title", reference=3.0)
    bars = ax.containers[0]
    assert bars[0].get_xdata().tolist() == [4.0] and bars.has_xerr
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ViT-L/14"]


def test_a_scatter_gives_each_family_its_colour_and_marker_and_a_line_to_three_points():
    frame = pd.DataFrame(
        {"title": list("abcd"), "family": ["ViT"] * 3 + ["ResNet"], "x": [1, 2, 3, 4], "y": [2, 4, 6, 1]}
    )
    ax = figures.scatter(frame, "x", "y", fit=True)
    line = next(drawn for drawn in ax.lines if len(drawn.get_xdata()) == 2)
    assert line.get_ydata() == pytest.approx([2, 6]) and len(ax.containers) == 2
    assert {t.get_text() for t in ax.texts} == set("abcd")


def test_lines_have_a_panel_for_each_value_and_their_bands():
    frame = pd.DataFrame({"step": [0, 1] * 4, "mi": 1.0, "mi_low": 0.5, "mi_high": 1.5})
    frame = frame.assign(title=np.repeat(list("abcd"), 2), family=np.repeat(["ViT", "ResNet"], 4))
    axes = figures.lines(frame, "step", "mi", hue="title", col="family")
    assert [ax.get_title() for ax in axes] == ["ViT", "ResNet"] and len(axes[0].collections) == 2


def test_curves_have_one_entry_a_group_and_a_panel_for_each_value():
    frame = pd.DataFrame(
        {"rank": [1, 2] * 3, "z": [3, 1, 2, 1, 4, 2.0], "model": list("aabbcc"), "of": ["x"] * 4 + ["y"] * 2}
    )
    frame["group"] = ["one"] * 4 + ["two"] * 2
    axes = figures.curves(frame, "rank", "z", unit="model", hue="group", col="of")
    assert [ax.get_title() for ax in axes] == ["x", "y"] and len(
        axes[0].lines
    ) == 2 + 2  # two of them empty, for the key
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert len(figures.curves(frame[:0], "rank", "z", "model", "group")) == 1


def test_bars_and_panels():
    ax = figures.bars(estimates(), "title", "top1", hue="family")
    assert len(ax.patches) == 2
    axes = figures.panels(5, 3, (2, 1))
    assert len(axes) == 5 and axes[0].figure.get_size_inches().tolist() == [6, 2]
    assert [a.axison for a in axes[0].figure.axes] == [True] * 5 + [False]


def test_pictures_with_titles_and_parts_in_colour():
    picture = Image.new("RGB", (8, 8), (10, 20, 30))
    assert len(pictures.grid([picture] * 3, ["one", "two", "three"], columns=2)) == 3
    tinted = pictures.tinted(picture, np.array([[-1, 0], [1, 1]]))
    np.testing.assert_allclose(tinted[0, 0], np.array([10, 20, 30]) / 255)  # no part: the picture itself
    assert not np.allclose(tinted[0, 7], tinted[0, 0]) and not np.allclose(tinted[7, 0], tinted[0, 7])


def test_a_card_escapes_what_it_shows():
    html = cards.of_facts({"Data": "<script>"}, banner="a & b").html
    assert "<script>" not in html and "&lt;script&gt;" in html and "a &amp; b" in html


def test_lines_below_a_picture_are_bold_where_they_are_to_be():
    picture = np.zeros((4, 4, 3), np.uint8)
    axes = pictures.grid([picture, picture], ["a", "b"], below=[{"one": True, "two": False}, {}])
    assert [(t.get_text(), t.get_weight()) for t in axes[0].texts] == [("one", "bold"), ("two", "normal")]
    assert not axes[1].texts and pictures.grid([]) == []


def test_one_format_may_stand_for_all_columns_and_whole_numbers_stay_whole():
    table = tables.show(pd.DataFrame({"n": [3], "mean_of_it": [0.25]}), "tab-x", "Caption.", formats=".1f")
    assert list(table.cells) == ["n", "mean of it"] and list(table.cells.iloc[0]) == ["3", "0.2"]


def test_bars_and_scatters_stand_beside_each_other():
    frame = pd.DataFrame({"kind": ["a", "b"], "x": [1.0, 2.0], "y": [1.0, 2.0], "family": "ViT", "title": ["m", "n"]})
    ax = figures.panels(2, 2, (2, 2))[1]
    assert figures.bars(frame, "kind", "y", ax=ax) is ax
    assert [ax.get_title() for ax in figures.scatters(frame, "x", "y", "kind")] == ["a", "b"]


def test_each_part_has_a_colour_of_its_own_and_none_is_white():
    colours = pictures.coloured(np.arange(-1, 9)[None])
    assert len(np.unique(colours[0], axis=0)) == 10 and (colours[0, 0] == 1).all()


def test_marks_stand_where_they_should_and_a_line_without_any_is_there():
    frame = pd.DataFrame(
        [
            ("a", "text", 3, 4.0, 10),
            ("a", "text", 5, 9.0, 10),
            ("b", "image", None, None, 8),
            ("c", "image", 7, 4.0, 8),
        ],
        columns=["set", "tower", "coordinate", "z", "width"],
    )
    ax = figures.marks(frame, "coordinate", "set", "tower", "z", "width")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in ax.texts] == ["3", "5", "7"]
    lines, text, image = ax.collections
    assert [path.vertices[:, 0].tolist() for path in lines.get_paths()] == [[0, 10], [0, 8], [0, 8]]
    assert text.get_offsets().tolist() == [[3, 0], [5, 0]] and image.get_offsets().tolist() == [[7, 2]]
    assert text.get_sizes().tolist() == [32, 72]
    assert figures.marks(frame.iloc[:0], "coordinate", "set", "tower", "z", "width").get_yticklabels() == []
