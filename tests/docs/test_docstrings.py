"""Our docstrings are converted to the markup of Sphinx."""

from __future__ import annotations

from helpers.scripts import ROOT, load_script

to_restructured_text = load_script("docstrings", ROOT / "docs").to_restructured_text


def test_formulae_are_literal_and_fields_a_list() -> None:
    docstring = [
        "Of z.",
        "",
        "    p(x | z)",
        "",
        "log_p: (B,), log p(x | z),",
        "    in nats.",
        "rank, size: of x_-v.",
        "",
        "Args:",
        "    num_slots: K.",
        "    z: (*batch, D) and `a | b`.",
        "",
        "    Still of z.",
    ]
    assert to_restructured_text(docstring) == [
        "Of z.",
        "",
        ".. code-block:: text",
        "",
        "    p(x | z)",
        "",
        "*   **log_p**: (B,), log p(x \\| z),",
        "    in nats.",
        "*   **rank, size**: of x\\_-v.",
        "",
        "Args:",
        "    num_slots: \\K.",
        "    z: (\\*batch, D) and `a | b`.",
        "",
        "    Still of z.",
    ]


def test_prose_with_a_colon_and_examples_stay() -> None:
    docstring = ["It says", "so: in *prose*.", "", ">>> 1 | 2", "3"]
    assert to_restructured_text(docstring) == docstring
