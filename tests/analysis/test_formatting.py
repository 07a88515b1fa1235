import pytest

from playbook_jax.analysis.data import formatting
from playbook_jax.analysis.render import html

SPACE = formatting.NO_BREAK


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0316227766, "0.0316"),
        (0.5, "0.5"),
        (12.3456, "12.3"),
        (1000.0, "1000"),
        (123456.7, "123457"),
        (1.2e-5, "1.2e-5"),
        (1e-6, "1e-6"),
        (1.5e9, "1.5e9"),
        (0, "0"),
        (-2.5, "-2.5"),
        # A momentum just below 1 is not 1.
        (0.9, "0.9"),
        (0.955298, "0.955"),
        (0.9987, "0.9987"),
        (0.99987654, "0.99988"),
        (0.99999999, "0.99999999"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value, text):
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, "null"),
        ("adam", "adam"),
        (3, "3"),
        ([64, 64], "64, 64"),
        ((), "none"),
        ([[1, 2], [3]], "1, 2, 3"),
    ],
)
def test_values(value, text):
    assert formatting.value(value) == text


def test_words():
    assert formatting.join([3]) == "3"
    assert formatting.join([3, 8, 14]) == "3, 8 and 14"
    assert formatting.some(range(8)) == "0, 1, 2, 3, 4, 5, 6 and 7"
    assert formatting.some(range(20)) == "0, 1, 2, 3, 4, 5, 6 and 13 others"
    assert formatting.trials([4]) == "trial 4"
    assert formatting.plural(1, "trial") == "1 trial"
    assert formatting.plural(1200, "trial") == "1,200 trials"
    assert [formatting.share(*p) for p in ((0, 4), (3, 4), (4, 4), (1, 1))] == [
        "none of 4",
        "3 of 4",
        "all 4",
        "the one",
    ]
    assert formatting.sentence("all well...") == "All well."
    assert formatting.power_of_ten(-12) == "10⁻¹²"


def test_fractions():
    assert formatting.percent(0.346) == f"35{SPACE}%"
    assert formatting.percent(0.999) == f"more than 99{SPACE}%"
    assert formatting.percent(1) == f"100{SPACE}%"
    assert formatting.probability(1 / 250) == "1 in 250"
    assert formatting.probability(0.59) == f"59{SPACE}%"
    assert formatting.probability(0) == "below 1 in 10,000"


def test_metrics():
    assert formatting.metric("validation/error_rate", 0.016666) == f"1.67{SPACE}%"
    assert formatting.metric("validation/polyak/accuracy", 0.5) == f"50.00{SPACE}%"
    assert formatting.metric("validation/loss", 0.123456) == "0.1235"
    assert formatting.metric_label("validation/error_rate") == "validation error rate"


def test_named_trials_become_links_and_all_else_is_escaped():
    assert html.prose("a < b & trial 3.") == ('a &lt; b &amp; trial <b class="t" data-t="3">3</b>.')
    linked = html.prose("Trials 3, 8 and 14: <b>")
    assert [f'data-t="{n}"' in linked for n in (3, 8, 14)] == [True] * 3
    assert linked.endswith("&lt;b&gt;")
    others = html.prose("trials 3, 8 and 5 others")
    assert 'data-t="5"' not in others
    assert others.endswith("8</b> and 5 others")
    assert html.prose("20 trials and trial by error") == "20 trials and trial by error"


def test_attributes_are_escaped():
    assert html.tag("a", "x", href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">x</a>'
    assert html.tag("td", "x", class_="") == "<td>x</td>"
    assert html.items("ul", []) == ""
