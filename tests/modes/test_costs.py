"""The costs of a configuration, through the command line."""

import trained
from trained import command


def test_describe_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("--mode=describe", f"--config={trained.run().experiment}", "--config.data.vocabulary=bytes")
    assert (result.status, list(tmp_path.iterdir())) == (0, [])
    assert result.err.startswith("without an effect here") and result.err.count("\n") == 1
    table = 260 * 32  # one, shared three ways
    attention, feed_forward, norm = 4 * (32 * 32 + 32), 2 * 32 * 32 + 64, 64
    size = table + (attention + feed_forward + 2 * norm) + (2 * attention + feed_forward + 3 * norm)
    assert f"{size:,}" in result.out


def test_memory_of_no_device_is_a_line():
    result = command("--mode=describe", f"--config={trained.run().experiment}", "--memory_gib=16")
    assert result.status == 2 and "--memory_gib=16" in result.err and "--devices" in result.err and result.err.count("\n") == 1
