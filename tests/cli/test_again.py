"""``--overwrite``: a command runs again into its own output, and into nothing else."""

import numpy as np
import pytest

from ssd_mining.cli import compare, demo, match, merge, mine, report
from tests.support.commands import content, run
from tests.support.reports import NO_PAGE

# Words of each command, and the files that it may replace; names are those of `folder`.
COMMANDS = {
    "demo": (["demo", "--samples", 1], demo.FILES),
    "mine": (["mine", "losses.npy", "labels.npy", "--background", 0], mine.FILES),
    "masks": (["mine", "losses.npy", "labels.npy", "--background", 0, "--save", "masks"], mine.FILES),
    "match": (["match", "instances.json", "anchors.npy"], match.FILES),
    "report": (["report", "losses.npy", "labels.npy", "--background", 0, *NO_PAGE], report.FILES),
    "shard": (["report", "losses.npy", "labels.npy", "--background", 0, "--shard", "1/1"], {report.SHARD_FILE}),
    "merge": (["merge", "of_shard", *NO_PAGE], merge.FILES),
    "compare": (["compare", "of_report", "of_report", *NO_PAGE], compare.FILES),
}


@pytest.fixture
def folder(batch, monkeypatch):
    """Work in a directory with inputs for every command."""
    path, _ = batch
    monkeypatch.chdir(path)
    np.save("anchors.npy", np.float32([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]))
    boxes = '{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}'
    lists = f'"images": [{{"id": 1, "width": 9, "height": 9}}], "categories": [{{"id": 1}}], "annotations": [{boxes}]'
    (path / "instances.json").write_text(f"{{{lists}}}")
    for name in ("shard", "report"):
        assert run(*COMMANDS[name][0], "--out", f"of_{name}")[0] == 0
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_replaces_what_it_has_written_itself(folder, name):
    words, files = COMMANDS[name]
    words = [*words, "--out", "out"]
    assert run(*words)[::2] == (0, "")
    expected = content("out")
    assert expected.keys() <= files
    for file in expected:
        (folder / "out" / file).write_text("old")
    code, _, err = run(*words)
    assert (code, err.endswith("name another with --out, or add --overwrite\n")) == (2, True)
    assert run(*words, "--overwrite")[::2] == (0, "")
    assert content("out") == expected
    (folder / "out" / "precious.txt").write_text("precious")
    code, _, err = run(*words, "--overwrite")
    assert (code, err.endswith("got precious.txt in it; name another with --out\n")) == (2, True)
    assert content("out") == expected | {"precious.txt": b"precious"}
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("folder")
def test_a_report_does_not_replace_a_shard_nor_a_shard_a_report():
    before = content("of_shard"), content("of_report")
    for words, out in (("report", "of_shard"), ("merge", "of_shard"), ("shard", "of_report"), ("mine", "of_report")):
        assert run(*COMMANDS[words][0], "--out", out, "--overwrite")[0] == 2
    assert (content("of_shard"), content("of_report")) == before


def test_a_file_of_labels_is_replaced_too(folder):
    words = ("match", "instances.json", "anchors.npy", "--out", "matched.npy")
    assert run(*words)[0] == 0
    expected = (folder / "matched.npy").read_bytes()
    (folder / "matched.npy").write_text("old")
    assert run(*words)[0] == 2
    assert run(*words, "--overwrite")[0] == 0
    assert (folder / "matched.npy").read_bytes() == expected
