"""Published weights: found where they are, fetched through every misfortune, and never used unverified."""

import hashlib
import io
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.base.download import TRIES
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import cache_folder
from proxyless_arch.weights import fetch
from proxyless_arch.weights.fetch import find_weights, home_folder
from tests.errors import named
from tests.proxyless_arch.weights import file_server
from tests.proxyless_arch.weights.file_server import FileServer

CONTENT = np.random.default_rng(0).bytes(300_000)
HALF = 123_456
NAME = "proxyless_cpu.pth"
STALL_S = 0.3


def blob_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


SHA1 = blob_sha1(CONTENT)
RELEASE = replace(catalog.release("proxyless_cpu"), blob_sha1={NAME: SHA1})


@pytest.fixture
def server():
    server = FileServer(CONTENT)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A cache of its own, no home, and loopback reached without a proxy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PROXYLESSNAS_HOME", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def cached(tmp_path):
    return tmp_path / "cache" / "proxyless_nas" / NAME


def find(server, **options):
    return find_weights(RELEASE, base_url=server.url, stall_s=STALL_S, **options)


def refusal(*arguments, **options):
    with pytest.raises(InputError) as caught:
        find_weights(*arguments, **{"stall_s": STALL_S} | options)
    return str(caught.value)


def files(cached):
    return sorted(path.name for path in cached.parent.iterdir() if not path.name.startswith("."))


# -------------------------------------------------------------------------------------------------------- the search


def test_an_explicit_path_comes_first_and_is_taken_as_it_is(tmp_path, monkeypatch, cached):
    own = tmp_path / "my own.h5"
    own.write_bytes(b"anything")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT)
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(tmp_path / "nowhere"))
    assert find_weights(RELEASE, path=own) == own
    assert find_weights(RELEASE, path=str(own)) == own
    assert refusal(RELEASE, path=tmp_path / "no.h5") == f"no such file (in {tmp_path / 'no.h5'})"
    assert find_weights(RELEASE, path=tmp_path) == tmp_path  # whoever reads it finds the file in it


def test_home_comes_before_the_cache(tmp_path, monkeypatch, cached):
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT)
    assert find_weights(RELEASE, base_url="http://127.0.0.1:1/") == cached
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(tmp_path))
    assert find_weights(RELEASE) == cached
    (tmp_path / NAME).write_bytes(CONTENT)
    assert find_weights(RELEASE) == tmp_path / NAME


def test_home_must_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(tmp_path / "nowhere"))
    assert refusal(RELEASE) == f"PROXYLESSNAS_HOME: expected a folder, got {str(tmp_path / 'nowhere')!r}"
    monkeypatch.setenv("PROXYLESSNAS_HOME", "")
    assert home_folder() is None


def test_a_relative_cache_variable_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "proxyless_nas"


def test_a_wrong_file_in_home_is_refused_and_left_alone(tmp_path, monkeypatch, server):
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(tmp_path))
    (tmp_path / NAME).write_bytes(CONTENT[:HALF])
    message = refusal(RELEASE, base_url=server.url)
    assert SHA1 in message and blob_sha1(CONTENT[:HALF]) in message and str(tmp_path / NAME) in message
    assert (tmp_path / NAME).read_bytes() == CONTENT[:HALF] and not server.paths


@pytest.mark.parametrize("wrong", [CONTENT[:HALF], CONTENT[:-1] + b"\0", b""], ids=["truncated", "altered", "empty"])
def test_a_wrong_file_in_the_cache_is_refused_and_removed(cached, server, wrong):
    cached.parent.mkdir(parents=True)
    cached.write_bytes(wrong)
    message = refusal(RELEASE, base_url=server.url)
    assert SHA1 in message and blob_sha1(wrong) in message and "was removed" in message
    assert not cached.exists() and not server.paths
    assert find(server).read_bytes() == CONTENT


def test_a_cache_that_is_no_folder(cached, server):
    cached.parent.parent.mkdir()
    cached.parent.write_bytes(b"")
    assert refusal(RELEASE, base_url=server.url).endswith(f"Not a directory (in {cached})")


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, server):
    """A link to nothing: there is no such file, nor can its folder be made."""
    (tmp_path / "cache").symlink_to(tmp_path / "nowhere" / "deeper")
    message = refusal(RELEASE, base_url=server.url)
    assert "cannot be written" in message and f"Put {NAME}" in message and not server.paths


def test_what_is_not_published():
    assert refusal("proxyless_cpuu").endswith("did you mean 'proxyless_cpu'?")
    assert refusal("proxyless_cpu", "h5") == (
        "kind: expected proxyless_cpu.pth or proxyless_cpu.tfinit, got 'proxyless_cpu.h5'"
    )


@pytest.mark.parametrize("url", ["ftp://host/", "file:///tmp/", "host/files", "http://", "http://[", "http://a b/"])
def test_urls_that_are_none(url):
    message = refusal(RELEASE, base_url=url)
    assert message.startswith("base_url: ")
    named(message, "https or http", repr(url))


def test_only_an_explicit_url_may_be_plain_http(server):
    message = refusal(replace(RELEASE, weights_base_url=server.url))
    assert message == f"base_url: expected an https URL, got {server.url!r}" and not server.paths


# ------------------------------------------------------------------------------------------------------ the download


def test_a_download_is_kept_and_the_next_call_needs_no_server(server, cached, capfd):
    assert find(server) == cached
    assert cached.read_bytes() == CONTENT and files(cached) == [NAME]
    assert server.paths == [f"/files/{NAME}"]
    assert capfd.readouterr() == ("", "")  # no bar where nobody watches
    assert find_weights(RELEASE, base_url="http://127.0.0.1:1/") == cached


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_with_rate_and_time_left_on_a_terminal(server, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    find(server)
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith(f"{NAME}: 100%") and "293k/293k" in last and "B/s" in last and "<00:00" in last


def test_a_cut_is_tried_again(server, cached):
    server.answers = [file_server.cut(HALF), file_server.cut(2 * HALF), file_server.whole]
    assert find(server).read_bytes() == CONTENT
    assert len(server.paths) == 3 and files(cached) == [NAME]


@pytest.mark.parametrize("broken", [file_server.cut(HALF), file_server.stall(HALF)], ids=["cut", "stall"])
def test_a_connection_that_always_breaks_leaves_nothing(server, cached, broken):
    server.answers = [broken]
    message = refusal(RELEASE, base_url=server.url)
    assert f"{TRIES} times" in message and f"Put {NAME} (git blob sha1 {SHA1}" in message
    assert list(cached.parent.iterdir()) == [] and len(server.paths) == TRIES
    server.answers = [file_server.whole]
    assert find(server).read_bytes() == CONTENT


def test_altered_bytes_are_refused_and_discarded(server, cached):
    server.answers = [file_server.altered]
    message = refusal(RELEASE, base_url=server.url)
    assert SHA1 in message and blob_sha1(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])) in message
    assert files(cached) == [] and len(server.paths) == 1


def test_a_stream_without_length(server, cached):
    """Its end cannot be told from a cut: only the hash can."""
    server.answers = [file_server.without_length(HALF), file_server.without_length(None)]
    assert blob_sha1(CONTENT[:HALF]) in refusal(RELEASE, base_url=server.url)
    assert files(cached) == []
    assert find(server).read_bytes() == CONTENT


def test_a_file_that_is_too_large(server, cached, monkeypatch):
    server.answers = [file_server.announcing(2**40)]
    assert f"got {2**40} or more" in refusal(RELEASE, base_url=server.url)
    monkeypatch.setattr(fetch, "MAX_DOWNLOAD_BYTES", HALF)
    server.answers = [file_server.without_length(None)]
    assert f"expected at most {HALF} bytes" in refusal(RELEASE, base_url=server.url)
    assert files(cached) == []


def test_redirects_are_followed(server):
    server.answers = [file_server.redirect("/elsewhere"), file_server.whole]
    assert find(server).read_bytes() == CONTENT
    assert server.paths == [f"/files/{NAME}", "/elsewhere"]


@pytest.mark.parametrize("target", ["/loop", "file:///etc/hostname"])
def test_redirects_that_lead_nowhere(server, cached, target):
    server.answers = [file_server.redirect(target)]
    message = refusal(RELEASE, base_url=server.url)
    assert "HTTP 302" in message and "\n" not in message and f"Put {NAME}" in message
    assert files(cached) == []


@pytest.mark.parametrize("code", [404, 403, 500, 204])
def test_an_http_error_says_which_file_to_put_where(server, cached, code):
    server.answers = [file_server.status(code)]
    message = refusal(RELEASE, base_url=server.url)
    assert f"HTTP {code}" in message and len(server.paths) == 1
    named(message, f"Put {NAME}", SHA1, f"{server.url}{NAME}", cached.parent, "$PROXYLESSNAS_HOME")


def test_no_network_says_which_file_to_put_where(tmp_path, monkeypatch, cached):
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(tmp_path))
    message = refusal(RELEASE, base_url="http://127.0.0.1:1/")
    assert "no connection" in message and "refused" in message
    named(message, f"http://127.0.0.1:1/{NAME}", cached.parent, f"{tmp_path} ($PROXYLESSNAS_HOME)")


def test_two_at_once_get_a_whole_file_each(server, cached):
    found = []
    askers = [threading.Thread(target=lambda: found.append(find(server).read_bytes())) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found == [CONTENT] * 4 and list(cached.parent.iterdir()) == [cached]
