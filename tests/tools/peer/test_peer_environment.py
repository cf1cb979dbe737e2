from pathlib import Path

import peer
import pytest
from cluster import Quiet


def test_a_failed_installation_says_what_nodepool_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "XDG_CACHE_HOME": str(tmp_path),
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(peer.PeerError, match=r"package index with nodepool==11\.0\.0, kubernetes"):
        peer.environment(Quiet())
    assert not list(tmp_path.rglob("complete"))


def test_an_environment_that_is_complete_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "nodepool-k8s" / "peer-nodepool-11.0.0"
    folder.mkdir(parents=True)
    (folder / "complete").touch()
    assert peer.environment(Quiet()) == folder
    assert [entry.name for entry in folder.iterdir()] == ["complete"]
