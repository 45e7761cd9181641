"""Mistakes at the command line: one line that names the file or option, the value and a remedy, and exit status 1."""

import errno
import os
from pathlib import Path

import pytest
import yaml

from tad.commands.cli import main
from tad.core.errors import StorageError
from tad.core.storage import expect_readable, unreadable

ROWS = {
    "datasets": {"toy": {"format": "csv", "videos": "videos", "annotations": "labels.csv"}},
    "features": {"f": {"backbone": "r2plus1d_small"}},
    "runs": {"toy": {"dataset": "toy", "features": "f", "detector": "mse"}},
}
NEW = ("new", "mine", "--offline", "--out", "new.yaml", "--videos", "videos", "--labels", "labels.csv")

WRONG = [
    ((*NEW, "--videos", "labels.csv"), "--videos labels.csv: is a file; give the folder with the video files"),
    ((*NEW, "--videos", "nowhere"), "nowhere: no such folder; give the folder with the video files (--videos)"),
    ((*NEW, "--labels", "nowhere.csv"), "nowhere.csv: no such file or folder; give the file or folder that your"),
    ((*NEW, "--split-file", "no.csv"), "--split-file no.csv: no such file; give a CSV file with the columns video and"),
    ((*NEW, "--rate", "-1"), "--rate -1: give the frames per second of the labels, such as 25"),
    ((*NEW, "--points", "-2"), "--points -2: give the seconds around each point in time, such as 2"),
    ((*NEW, "--test-share", "5"), "--test-share 5: give a share of the videos between 0 and 1, such as 0.2"),
    ((*NEW, "--columns", "video=Nope"), "line 1: no column 'Nope', which --columns names for video; known: end, label"),
    (("table", "toy"), "results/toy/map.json: no such file; make it with: tad run results/toy/map.json"),
    (("table", "absent.json"), "absent.json: no such file; check the path, or make the file first"),
    (("table", "score.json", "--out", "videos"), "videos: is a folder, not a file; nothing was replaced; name a file"),
    (("compare", "toy", "toy"), "toy: given twice; name two different runs"),
    (("apply", "toy", "nowhere.mp4", "--out", "o.json"), "results/toy/model.safetensors: no such file; train it with"),
    (("suggest", "toyy"), "config.yaml: runs has no 'toyy'; did you mean 'toy'? known: toy"),
    (("verify", "nowhere"), "nowhere: no such file or folder; give files or folders of results"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(ROWS))
    (tmp_path / "labels.csv").write_text("video,start,end,label\na,1,2,run\n")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").write_text("not a video")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words)[-40:] for words, _ in WRONG])
def test_a_mistake_is_one_line_with_a_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    if "score.json" in words:
        _score(folder / "score.json")
    assert main(list(words)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line[:2].isdigit()]  # without the log
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"tad {words[0]}: ")
    assert said in lines[0]
    assert not (folder / "new.yaml").exists()


def _score(path: Path) -> None:
    """Write a score by the command itself."""
    found, truth = path.with_name("found.json"), path.with_name("truth.csv")
    found.write_text('{"results": {"a": [{"label": "run", "score": 0.9, "segment": [1, 2]}]}}')
    truth.write_text("video,start,end,label\na,1,2,run\n")
    words = ["evaluate", str(found), "--annotations", str(truth), "--protocol", "plain", "--out", str(path)]
    assert main(words) == 0


def test_what_cannot_be_read_is_not_called_unwritable(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions are pretended, because tests may run as root, which may read everything."""
    (folder / "exports").mkdir()
    denied: set[str] = set()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in denied and real(path, mode))
    assert unreadable(folder / "labels.csv") is None
    assert unreadable(folder / "absent") is None
    denied.add("labels.csv")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "labels.csv")

    with monkeypatch.context() as patch:
        patch.setattr("tad.commands.new.read_labels", refused)
        assert main(list(NEW)) == 1
    said = capsys.readouterr().err
    assert "labels.csv: no permission to read it; change its owner or mode, then run the same command again" in said
    denied.add("exports")
    assert main([*NEW, "--labels", "exports"]) == 1
    assert "exports: no permission to read it; change its owner or mode" in capsys.readouterr().err
    denied.add(str(folder / "videos"))
    with pytest.raises(StorageError, match="videos: no permission to read it"):
        expect_readable(folder / "videos/a.mp4")
