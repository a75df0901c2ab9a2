"""The benchmark of a drag runs, briefly."""

from benchmarks import drag


def test_each_explorer_and_vocabulary_is_measured(lab, tmp_path, capsys):
    drag.pages(lab, tmp_path, 4)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and all("of 4 moves" in line for line in said)
