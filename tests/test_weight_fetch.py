"""Weights from a bad web: nothing wrong is accepted, nothing that came is lost; files put by hand are judged alike."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from web_tools import Answer, Server, cut, dripping, good, serving, stalled, status

from tad.commands.cli import main
from tad.core import formats
from tad.core.errors import TadError
from tad.settings import plugins
from tad.settings.stages import Plugin
from tad.weights import fetch as weight_fetch
from tad.weights import store as weight_store
from tad.weights.download import Patience, fetch_file
from tad.weights.store import expect_published, list_weights, listed, problem_of, sums_of, verify

BODY = b"PK\x03\x04" + bytes(range(256)) * 3000
FLIPPED = BODY[:5000] + bytes([BODY[5000] ^ 1]) + BODY[5001:]
PAGE = b"<!DOCTYPE html><html><body>Quota exceeded</body></html>"
HASTE = Patience(stall=0.4, attempts=3, pause=0.01)
GIT = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, no proxy, and nothing in PyTorch's store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The one weight file of the one backbone, `toy`; change it before fetching."""
    facts: dict[str, Any] = {"name": "x.pt", "url": "http://unset.invalid/x.pt", "licence": "MIT", "source": "made up"}
    monkeypatch.setattr(plugins, "names", lambda kind: ["toy"])
    monkeypatch.setattr(plugins, "_names", lambda kind: ("toy",))
    monkeypatch.setattr(plugins, "document", lambda kind, name: {"settings": {}, "weights": [dict(facts)]})
    return facts


def fetched(entry: dict[str, Any], server: Server, **facts: Any) -> Path:
    entry.update(facts, url=f"{server.url}/files/x.pt")
    return weight_fetch.fetch(["x.pt"], patience=HASTE)[0]


def refused(entry: dict[str, Any], server: Server, said: str, **facts: Any) -> str:
    with pytest.raises(TadError, match=said) as caught:
        fetched(entry, server, **facts)
    assert "\n" not in str(caught.value)
    assert not Path("data/weights/toy/x.pt").exists()
    assert not Path("data/weights/toy/pins.json").exists()
    return str(caught.value)


def test_a_good_file_lands_with_its_pin_and_nothing_else(entry: dict[str, Any]) -> None:
    with serving(good(BODY)) as server:
        path = fetched(entry, server, sha256=SHA, bytes=len(BODY))
        assert path == Path("data/weights/toy/x.pt")
        assert path.read_bytes() == BODY
        assert fetched(entry, server) == path
    assert len(server.seen) == 1, "the second fetch found it"
    assert {p.name for p in path.parent.iterdir()} == {"x.pt", "pins.json"}
    pins = json.loads((path.parent / "pins.json").read_text())
    assert pins == {**formats.mark("pins"), "x.pt": {"sha256": SHA, "bytes": len(BODY), "url": entry["url"]}}


FACTS = ({"sha256": SHA}, {"sha256_prefix": SHA[:8]}, {"git_blob": GIT}, {"bytes": len(BODY)})
WRONG = {"short": BODY[:-7], "long": BODY + b"more", "flipped": FLIPPED}


@pytest.mark.parametrize(
    ("fact", "kind"), [(f, k) for f in FACTS for k in WRONG if (k, *f) != ("flipped", "bytes")], ids=str
)
def test_short_long_and_flipped_files_are_refused(entry: dict[str, Any], fact: dict[str, Any], kind: str) -> None:
    with serving(good(WRONG[kind])) as server:
        refused(entry, server, "published", **fact)
    assert list(Path("data/weights/toy").iterdir()) == [], "bytes that are wrong are not gone on from"


def test_a_longer_file_of_unknown_end_is_cut_off(entry: dict[str, Any]) -> None:
    def endless(h: Any) -> None:
        h.start(200)
        try:
            while True:
                h.wfile.write(BODY)
        except OSError:
            return

    with serving(endless) as server:
        refused(entry, server, "longer than the 1000 bytes", bytes=1000)


@pytest.mark.parametrize(("body", "headers"), [(PAGE, {"Content_Type": "text/html"}), (PAGE, {}), (b" \n" + PAGE, {})])
def test_a_web_page_is_not_weights(entry: dict[str, Any], body: bytes, headers: dict[str, str]) -> None:
    with serving(status(200, body, **headers)) as server:
        refused(entry, server, "web page instead of the file")
    assert len(server.seen) == 1


def test_absent_is_said_at_once(entry: dict[str, Any]) -> None:
    with serving(status(404, PAGE, Content_Type="text/html")) as server:
        refused(entry, server, "404 Not Found; it may have moved: download the file manually")
    assert len(server.seen) == 1


def test_503_then_good(entry: dict[str, Any]) -> None:
    with serving(status(503), status(503, Retry_After="0"), good(BODY)) as server:
        assert fetched(entry, server, sha256=SHA).read_bytes() == BODY
    assert len(server.seen) == 3


def test_503_for_ever_ends(entry: dict[str, Any]) -> None:
    with serving(status(503)) as server:
        refused(entry, server, r"503 Service Unavailable \(3 times\)")
    assert len(server.seen) == HASTE.attempts


def test_a_redirect_is_followed_a_loop_is_not(entry: dict[str, Any]) -> None:
    with serving(status(302, Location="/elsewhere/x.pt"), good(BODY)) as server:
        fetched(entry, server, sha256=SHA)
    assert [path for path, _, _ in server.seen] == ["/files/x.pt", "/elsewhere/x.pt"]
    Path("data/weights/toy/x.pt").unlink()
    Path("data/weights/toy/pins.json").unlink()
    with serving(status(302, Location="/files/x.pt")) as server:
        refused(entry, server, "redirected more than 5 times")
    assert len(server.seen) <= 7
    with serving(status(302, Location="file:///etc/hostname")) as server:
        refused(entry, server, "redirected to a place that is not on the web")


@pytest.mark.parametrize("slow", [stalled(BODY, 300_000, 3.0), dripping(BODY, 3.0)], ids=["silence", "drip"])
def test_a_stall_is_noticed_and_gone_on_from(entry: dict[str, Any], slow: Answer) -> None:
    with serving(slow, good(BODY)) as server:
        assert fetched(entry, server, sha256=SHA).read_bytes() == BODY
    assert server.seen[1][1] is not None, "the second request asks for the rest"


def test_a_connection_that_breaks_is_gone_on_from(entry: dict[str, Any]) -> None:
    with serving(cut(BODY, 300_000), good(BODY)) as server:
        assert fetched(entry, server, sha256=SHA).read_bytes() == BODY
    assert [wanted for _, wanted, _ in server.seen] == [None, "bytes=300000-"]


def test_the_rest_is_fetched_by_a_later_command(entry: dict[str, Any]) -> None:
    with serving(cut(BODY, 300_000), status(503)) as server:
        said = refused(entry, server, "300000 bytes are in", sha256=SHA)
    assert "x.pt.partial" in said
    rows = list_weights(Path("data/weights"))
    assert rows[0]["state"] == "partial"
    with serving(good(BODY)) as server:
        assert fetched(entry, server).read_bytes() == BODY
    assert server.seen[0][1] == "bytes=300000-"


def test_a_killed_download_is_gone_on_from(place: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tad.weights.download import fetch_file\n"
        "fetch_file(sys.argv[1], Path('x.pt'), check=lambda path: None, checkable=True)"
    )
    with serving(stalled(BODY, 600_000, 20.0), good(BODY)) as server:
        url = f"{server.url}/x.pt"
        killed = subprocess.Popen([sys.executable, "-c", program, url], cwd=place)
        partial = place / "x.pt.partial"
        while not (partial.exists() and partial.stat().st_size >= 1 << 18) and killed.poll() is None:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        kept = partial.stat().st_size
        assert 0 < kept <= 600_000
        assert not (place / "x.pt").exists()
        fetch_file(url, place / "x.pt", check=lambda _: None, checkable=True, patience=HASTE)
    assert (place / "x.pt").read_bytes() == BODY
    assert server.seen[1][1] == f"bytes={kept}-"
    assert not partial.exists()


def test_a_server_without_ranges_sends_it_all_again(entry: dict[str, Any]) -> None:
    with serving(cut(BODY, 300_000), good(BODY, ranges=False)) as server:
        assert fetched(entry, server, sha256=SHA).read_bytes() == BODY
    assert server.seen[1][1] == "bytes=300000-"


def test_a_part_that_was_not_asked_for_is_not_glued_on(entry: dict[str, Any]) -> None:
    odd = status(206, BODY[7:], Content_Range=f"bytes 7-{len(BODY) - 1}/{len(BODY)}")
    with serving(cut(BODY, 300_000), odd, good(BODY)) as server:
        assert fetched(entry, server).read_bytes() == BODY


def test_a_wrong_content_length_is_found_out(entry: dict[str, Any]) -> None:
    with serving(cut(BODY, len(BODY), claims=len(BODY) + 50), good(BODY)) as server:
        assert fetched(entry, server, sha256=SHA).read_bytes() == BODY, "more was promised; nothing more is there"
    Path("data/weights/toy/x.pt").unlink()
    Path("data/weights/toy/pins.json").unlink()
    with serving(cut(BODY, len(BODY), claims=len(BODY) - 50)) as server:
        refused(entry, server, "published is")
        refused(entry, server, f"offers {len(BODY) - 50} bytes", bytes=len(BODY))


def test_without_a_public_hash_only_the_same_version_is_gone_on_from(entry: dict[str, Any]) -> None:
    other = bytes(reversed(BODY))
    with serving(cut(BODY, 300_000, etag='"1"'), good(other, etag='"2"')) as server:
        assert fetched(entry, server).read_bytes() == other, "a mixture of two versions is neither"
    assert server.seen[1][2] == '"1"'
    Path("data/weights/toy/x.pt").unlink()
    Path("data/weights/toy/pins.json").unlink()
    with serving(cut(BODY, 300_000), good(other)) as server:
        assert fetched(entry, server).read_bytes() == other
    assert [wanted for _, wanted, _ in server.seen] == [None, None], "no version was named: from the start"


def test_a_pin_holds_against_a_file_that_changed(entry: dict[str, Any]) -> None:
    with serving(good(BODY)) as server:
        path = fetched(entry, server)
    assert verify() == [weight_store.Verdict(path, "pinned", "as it was first accepted; no hash is published")]
    path.unlink()
    with serving(good(FLIPPED)) as server, pytest.raises(TadError, match=rf"pinned is {SHA}.*remove its line from"):
        fetched(entry, server)
    assert not path.exists()
    path.write_bytes(FLIPPED)
    assert verify()[0].state == "BAD"
    (path.parent / "pins.json").unlink()
    assert verify()[0].state == "unpinned"
    (path.parent / "pins.json").write_text("[]")
    with pytest.raises(TadError, match="not a list of pins"):
        verify()


def test_a_file_put_by_hand_is_judged_like_a_fetched_one(entry: dict[str, Any]) -> None:
    path = Path("data/weights/toy/x.pt")
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    with serving(status(500)) as server:
        fetched(entry, server, git_blob=GIT)
        assert server.seen == []
        path.write_bytes(FLIPPED)
        with pytest.raises(TadError, match=r"x\.pt: has git blob id .*move it away and fetch again"):
            fetched(entry, server)
    assert path.read_bytes() == FLIPPED, "what somebody put there is theirs"


def test_what_lies_under_a_published_name_is_verified_before_it_is_used(entry: dict[str, Any]) -> None:
    folder, toy = Path("w"), Plugin(name="toy")
    folder.mkdir()
    (folder / "own.pth").write_bytes(FLIPPED)
    expect_published(folder, toy)
    (folder / "x.pt").write_bytes(FLIPPED)
    expect_published(folder, toy)  # no hash is published, and no pin is there
    entry["sha256"] = SHA
    for place in (folder, folder / "x.pt"):
        with pytest.raises(TadError, match=r"w/x\.pt: has sha256 \w+, published is \w+; fetch it again, or give"):
            expect_published(place, toy)
    (folder / "x.pt").write_bytes(BODY)
    expect_published(folder, toy)
    entry["sha256"] = ""
    pin = {"sha256": "0" * 64, "bytes": 1, "url": entry["url"]}
    (folder / "pins.json").write_text(json.dumps({"x.pt": pin}))
    with pytest.raises(TadError, match=r"w/x\.pt: has sha256 \w+, pinned is 0+; fetch"):
        expect_published(folder, toy)


@pytest.mark.parametrize("linked", [True, False])
def test_pytorchs_own_store_is_used_after_verification(
    entry: dict[str, Any], place: Path, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = place / "torch" / "hub" / "checkpoints" / "x.pt"
    hub.parent.mkdir(parents=True)
    hub.write_bytes(FLIPPED)
    if not linked:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    with serving(good(BODY)) as server:
        path = fetched(entry, server, sha256=SHA)
        assert len(server.seen) == 1, "what does not verify is fetched anew"
        path.unlink()
        hub.write_bytes(BODY)
        assert fetched(entry, server).read_bytes() == BODY
        assert len(server.seen) == 1
    assert path.samefile(hub) == linked
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    assert weight_fetch.torch_hub() == place / "cache" / "torch" / "hub" / "checkpoints"


def test_no_other_protocol(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"):
        with pytest.raises(TadError, match="not an http or https address"):
            fetch_file(url, tmp_path / "x", check=lambda _: None)


def test_nobody_there_ends_in_one_line(entry: dict[str, Any]) -> None:
    with serving(good(BODY)) as server:
        pass
    refused(entry, server, r"no connection .* \(3 times\)")


def test_two_processes_do_not_fetch_the_same_file(tmp_path: Path) -> None:
    """The first is held in the middle of the file until the second has been refused, however slow the machine is."""
    out = tmp_path / "x.pt"
    first, refused_second = threading.Event(), threading.Event()

    def held(h: Any) -> None:
        h.start(200, Content_Length=len(BODY))
        h.wfile.write(BODY[:10])
        h.wfile.flush()
        first.set()
        refused_second.wait(50)
        h.wfile.write(BODY[10:])

    with serving(held) as server:
        url = f"{server.url}/x.pt"
        patience = Patience(stall=60.0, attempts=1)
        said = []

        def other() -> None:
            try:
                fetch_file(url, out, check=lambda _: None, patience=patience)
            except TadError as error:  # an assertion in this thread would not fail the test
                said.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        try:
            assert first.wait(50)
            with pytest.raises(TadError, match="another process is downloading"):
                fetch_file(url, out, check=lambda _: None, patience=patience)
        finally:
            refused_second.set()
            thread.join()
        assert said == []
        assert out.read_bytes() == BODY


def test_no_room_is_said_before_the_disk_is_full(entry: dict[str, Any]) -> None:
    with serving(cut(BODY, 10, claims=1 << 50)) as server:
        refused(entry, server, "free some disk space")


def test_names_are_files_or_backbones(entry: dict[str, Any]) -> None:
    with serving(good(BODY)) as server:
        entry["url"] = f"{server.url}/x.pt"
        assert weight_fetch.fetch(["toy", "x.pt"], to=Path("w")) == [Path("w/x.pt")]
    with pytest.raises(TadError, match=r"'y\.pt'; did you mean 'x\.pt'"):
        weight_fetch.fetch(["y.pt"])
    entry["alternative"] = True
    with pytest.raises(TadError, match="toy: no weights are published; train it locally"):
        weight_fetch.fetch(["toy"])


def test_the_commands(entry: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    with serving(good(BODY)) as server:
        entry.update(url=f"{server.url}/x.pt", sha256=SHA)
        assert main(["weights", "fetch", "toy"]) == 0
    assert capfd.readouterr().out == "data/weights/toy/x.pt\n"
    assert main(["weights", "verify"]) == 0
    assert "verified  data/weights/toy/x.pt: sha256 as published" in capfd.readouterr().out
    assert main(["weights", "list"]) == 0
    text = capfd.readouterr().out
    assert text.splitlines()[0] == "toy: data/weights/toy"
    assert "verified" in text
    assert main(["weights", "list", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["state"] == "verified"
    Path("data/weights/toy/x.pt").write_bytes(PAGE)
    Path("data/weights/toy/own.pth").write_bytes(BODY)
    assert main(["weights", "verify", "data/weights/toy"]) == 1
    out, err = capfd.readouterr()
    assert "BAD       data/weights/toy/x.pt: is a web page" in out
    assert "unpinned  data/weights/toy/own.pth" in out
    assert err == "tad weights: 1 of 2 files do not match what was published; move them away, fetch again\n"
    assert main(["weights", "verify", "nowhere"]) == 1


def test_sums_are_those_of_git_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(BODY)
    sums = sums_of(tmp_path / "x")
    assert (sums.size, sums.sha256, sums.git_blob, sums.head) == (len(BODY), SHA, GIT, BODY[:512])
    assert problem_of(sums, None, None) == ""
    (tmp_path / "x").write_bytes(b"hello\n")  # `git hash-object` of it
    assert sums_of(tmp_path / "x").git_blob == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_shipped_list_is_readable() -> None:
    lines = list(listed(list_weights()))
    assert any("rgb_imagenet.pt" in line and "50.9 MB" in line and "sha256" in line for line in lines)
    assert any("r2plus1d_18-91a641e6.pth" in line and "~126.2 MB" in line for line in lines)
    assert max(map(len, lines)) < 200
