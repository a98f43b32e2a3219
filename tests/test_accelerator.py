"""The script for the first minutes on an accelerator: what fails or has no time costs nothing else; all is written at once."""

import json

import pytest

from experiments.benchmarks import accelerator, session


def test_what_fails_and_what_is_late_is_left_out_and_the_rest_is_written(tmp_path, monkeypatch, capsys):
    output, seen = tmp_path / "found.json", []

    def fails(session):
        session.row("first", a=1)
        seen.append(json.loads(output.read_text())["tables"])
        raise ValueError("no room\nand more")

    def parts(session):
        session.part("second", "bad", 0, lambda: 1 / 0)
        session.part("second", "good", 0, lambda: {"b": 2.5})
        session.part("second", "long", 1e9, lambda: seen.append("too late"))

    def late(session):
        seen.append("too late")

    monkeypatch.setattr(accelerator, "STEPS", {late: 1e9, fails: 0, parts: 0})
    accelerator.main([f"--output={output}"])
    found = json.loads(output.read_text())
    assert seen == [{"first": [{"a": 1}]}]
    assert found["tables"] == {"first": [{"a": 1}], "second": [{"b": 2.5}]}
    reasons = {"fails": "ValueError: no room", "second: bad": "ZeroDivisionError", "second: long": "no time", "late": "no time"}
    assert found["left_out"].keys() == reasons.keys()
    assert all(found["left_out"][what].startswith(why) for what, why in reasons.items())
    out = capsys.readouterr().out
    assert out.index("first") < out.index("second") < out.index("left out: fails")


def test_a_contender_that_is_not_installed_or_fails_says_so():
    class Pipe:
        sent: list = []  # noqa: RUF012

        def send(self, what):
            self.sent.append(what)

    def missing():
        import a_library_that_is_missing  # noqa: F401  # pyright: ignore[reportMissingImports]

    def broken():
        raise RuntimeError("out of memory\nof the device")

    for make in (missing, broken):
        session._aside(Pipe(), make, ())
    assert Pipe.sent == ["a_library_that_is_missing is not installed", "RuntimeError: out of memory"]


def test_steps_are_in_the_order_of_their_value():
    assert [step.__name__ for step in accelerator.STEPS] == [
        "families", "attention", "loss", "training", "decoding", "seeds", "studies"
    ]  # fmt: skip


@pytest.mark.slow
def test_kernels_are_measured_against_what_they_replace(tmp_path):
    output = tmp_path / "found.json"
    accelerator.main(["--small", "--steps=attention,loss", f"--output={output}"])
    found = json.loads(output.read_text())
    attention, loss = found["tables"].values()
    assert not found["left_out"] and len(attention) == 4 and len(loss) == 2
    assert {row["by"] for row in attention} == {"xla", "plain"} and all(row["error of gradients"] < 0.02 for row in attention)
    assert loss[1]["loss"] == "fused" and loss[1]["greatest relative difference"] < 0.02
