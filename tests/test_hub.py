"""From the Hub and back, with the real client: every failure names the model, the file and what to do."""

import json
import socket
import tempfile
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, close_session, constants
from safetensors.torch import load, save

import crt
from crt.models import factory, registry

from .hub_server import Hub

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def marked(model, mark):
    """The model with a head's bias that tells its weights from others."""
    torch.nn.init.constant_(model.head.bias, mark)
    return model


def mark_of(model):
    return model.head.bias[0].item()


def files_of(model):
    """What ``save_pretrained`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def missing(parts, message):
    return [part for part in parts if part not in message]


def refusal(error, load, *arguments, **options):
    """The message of exactly this error."""
    with pytest.raises(error) as caught:
        load(*arguments, **options)
    assert caught.type is error
    return str(caught.value)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the client would have waited before it tried again; nothing waits."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def hub(tiny, waits, tmp_path, monkeypatch):
    """A Hub that holds acme/tiny, where huggingface_hub looks for it; no connection goes anywhere else."""
    connect = socket.socket.connect

    def connect_here(self, address):
        assert address[0] == "127.0.0.1", f"a connection to {address}"
        return connect(self, address)

    server = Hub({"acme/tiny": {"main": files_of(marked(tiny, 0)), "dev/new": files_of(marked(tiny, 1))}})
    monkeypatch.setattr(socket.socket, "connect", connect_here)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "default cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    close_session()  # its client was made for other proxies
    yield server
    server.stop()
    close_session()


@pytest.fixture
def main(hub):
    """The files on the main branch of acme/tiny."""
    return hub.repos["acme/tiny"]["main"]


@pytest.fixture
def create(tmp_path):
    def create(name="hf-hub:acme/tiny", **options):
        return crt.create_model(name, pretrained=True, cache_dir=tmp_path / "cache", **options)

    return create


@pytest.fixture
def from_pretrained(tmp_path):
    def from_pretrained(name="acme/tiny", **options):
        return crt.CRT.from_pretrained(name, cache_dir=tmp_path / "cache", **options)

    return from_pretrained


@pytest.mark.parametrize("way", ["create", "from_pretrained"])
def test_a_downloaded_model_is_the_saved_one(hub, main, tiny, photo, tmp_path, request, way):
    tiny.mean.fill_(0.25)
    tiny.std.fill_(0.125)
    main |= files_of(marked(tiny, 0.5))
    model = request.getfixturevalue(way)()
    assert not model.training
    assert model.config == tiny.config
    assert torch.equal(model.cam(photo, ["cow"]), tiny.cam(photo, ["cow"]))


def no_server(hub, monkeypatch):
    hub.stop()


def offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def failing(hub, monkeypatch):
    hub.status["HEAD"] = 500


@pytest.mark.parametrize("cut_off", [no_server, offline, failing])
def test_the_second_time_needs_no_hub(hub, create, waits, monkeypatch, cut_off):
    create(), create("hf-hub:acme/tiny@dev/new")
    cut_off(hub, monkeypatch)
    assert mark_of(create()) == 0
    assert mark_of(create("hf-hub:acme/tiny@dev/new")) == 1
    assert not waits


def test_revisions(hub, create, from_pretrained):
    assert mark_of(create("hf-hub:acme/tiny@dev/new")) == 1
    assert mark_of(from_pretrained("hf-hub:acme/tiny@dev/new")) == 1
    assert mark_of(from_pretrained(revision="dev/new")) == 1
    assert mark_of(create()) == 0


def test_a_new_commit_is_fetched(main, tiny, create):
    create()
    main |= files_of(marked(tiny, 2))
    assert mark_of(create()) == 2


@pytest.mark.parametrize(
    ("name", "lacks", "parts"),
    [
        ("acme/none", None, ["acme/none", CONFIG, "check the name", "hf auth login"]),
        ("acme/tiny@v9", None, ["acme/tiny", "'v9'", CONFIG, "branches and tags"]),
        ("acme/tiny", CONFIG, ["acme/tiny@main", CONFIG, "push_to_hub"]),
        ("acme/tiny", WEIGHTS, ["acme/tiny@main", WEIGHTS, "push_to_hub", "pickle"]),
    ],
)
def test_what_the_hub_lacks(hub, main, create, name, lacks, parts):
    main["pytorch_model.bin"] = b"never to be read"
    main.pop(lacks, None)
    message = refusal(FileNotFoundError, create, f"hf-hub:{name}")
    assert not missing(parts, message)
    assert not [request for request in hub.seen if "pytorch_model" in request]


def without_a_tensor(content):
    tensors = load(content)
    del tensors["backbone.norm.bias"]
    return save(tensors)


def of_another_shape(content):
    return save({**load(content), "head.weight": torch.zeros(5, 32, 1, 1)})


@pytest.mark.parametrize(
    ("file", "change", "parts"),
    [
        (CONFIG, lambda _: b"<html>", [CONFIG, "not valid JSON", "force_download=True"]),
        (CONFIG, lambda _: b"[]", [CONFIG, "JSON object"]),
        (CONFIG, lambda old: json.dumps({**json.loads(old), "layers": 3}).encode(), [CONFIG, "layers", "newer"]),
        (WEIGHTS, lambda _: b"\x80\x02}q\x00.", [WEIGHTS, "not a safetensors file", "fetch or save it again"]),
        (WEIGHTS, without_a_tensor, ["weights", "missing", "backbone.norm.bias", "config.json"]),
        (
            WEIGHTS,
            of_another_shape,
            ["weights", "head.weight", "another shape: head.weight (5, 32, 1, 1) for (5, 32, 3, 3)", "config.json"],
        ),
    ],
)
def test_files_that_are_no_crt(main, create, file, change, parts):
    sound = main[file]
    main[file] = change(sound)
    message = refusal(ValueError, create).replace("models--acme--tiny", "acme/tiny")
    assert not missing(["acme/tiny", *parts], message)
    main[file] = sound  # a new commit
    assert mark_of(create()) == 0


def test_a_damaged_config_is_fetched_again(hub, main, from_pretrained):
    hub.wire[CONFIG] = b"\0" * len(main[CONFIG])
    refusal(ValueError, from_pretrained)
    hub.wire.clear()
    assert mark_of(from_pretrained(force_download=True)) == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-100], "could not be downloaded"),
        (lambda content: b"", "could not be downloaded"),
    ],
    ids=["truncated", "empty"],
)
def test_damage_on_the_way(hub, main, create, tmp_path, damage, reason):
    hub.wire[WEIGHTS] = damage(main[WEIGHTS])
    for _ in range(2):  # it is not taken from the cache either
        message = refusal(OSError, create)
        assert not missing(["acme/tiny@main", WEIGHTS, reason, "try again"], message)
        blobs = (tmp_path / "cache").rglob("blobs/*")
        (config,) = (blob for blob in blobs if blob.suffix != ".incomplete")  # nothing else is kept as whole
        assert config.read_bytes() == main[CONFIG]
    hub.wire.clear()
    assert mark_of(create()) == 0


@pytest.mark.parametrize("cut_off", [no_server, offline])
def test_without_hub_and_cache(hub, create, waits, monkeypatch, cut_off):
    cut_off(hub, monkeypatch)
    message = refusal(FileNotFoundError, create)
    parts = ["acme/tiny@main", CONFIG, "HF_HUB_OFFLINE", "checkpoint_path=", "local-dir:"]
    assert not missing(parts, message)
    assert cut_off is no_server or not waits


def test_local_files_only(hub, from_pretrained):
    assert "acme/tiny@main" in refusal(FileNotFoundError, from_pretrained, local_files_only=True)
    assert hub.seen == []


@pytest.mark.parametrize("options", [{}, {"force_download": True}])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 500), ("GET", 500), ("HEAD", 403)])
def test_a_failing_hub(hub, from_pretrained, method, status, options):
    hub.status[method] = status
    message = refusal(OSError, from_pretrained, **options)
    parts = ["acme/tiny@main", CONFIG, str(status), "try again"]
    assert not missing(parts, message)


def test_offline_nothing_can_be_forced(hub, from_pretrained, monkeypatch):
    from_pretrained()
    offline(hub, monkeypatch)
    message = refusal(OSError, from_pretrained, force_download=True)
    assert not missing(["acme/tiny@main", CONFIG, "HF_HUB_OFFLINE"], message)


@pytest.fixture
def crt_hub(monkeypatch):
    """A registered model with a tag for weights on the Hub."""
    for table in ("_entrypoints", "_tags"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))

    @crt.models.register_model(tags={"web": crt.models.PretrainedCfg(hub_id="acme/tiny@dev/new")})
    def crt_hub(**arguments):
        return crt.CRT(**{"num_passes": 7, **arguments})


@pytest.mark.usefixtures("crt_hub")
def test_given_weights_before_bundled_ones_before_the_hub(hub, tiny, create, tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "BUNDLED", tmp_path / "bundled")
    names = ["crt_hub.web", "crt_hub"]
    assert [mark_of(create(name)) for name in names] == [1, 1]
    assert not (tmp_path / "default cache").exists()
    hub.seen.clear()
    marked(tiny, 2).save_pretrained(tmp_path / "bundled/crt_hub.web")
    assert [mark_of(create(name)) for name in names] == [2, 2]
    marked(tiny, 3).save_pretrained(tmp_path / "given")
    assert [mark_of(create(name, checkpoint_path=tmp_path / "given")) for name in names] == [3, 3]
    assert hub.seen == []


@pytest.mark.usefixtures("crt_hub")
def test_the_architecture_fills_what_the_config_leaves_out(hub, tiny, create):
    assert create("crt_hub").config == tiny.config
    files = hub.repos["acme/tiny"]["dev/new"]
    files[CONFIG] = json.dumps({k: v for k, v in tiny.config.items() if k != "num_passes"}).encode()
    assert create("crt_hub").config == {**tiny.config, "num_passes": 7}


@pytest.mark.filterwarnings("ignore:Use 'content=")  # huggingface_hub's own
@pytest.mark.parametrize("push", ["push_to_hub", "save_pretrained"])
def test_a_pushed_model_can_be_fetched(hub, tiny, photo, create, tmp_path, push):
    if push == "push_to_hub":
        url = tiny.push_to_hub("acme/new")
    else:
        url = tiny.save_pretrained(tmp_path / "new", push_to_hub=True, repo_id="acme/new")
    assert url.startswith(f"{hub.url}/acme/new/commit/")
    pushed = hub.repos["acme/new"]["main"]
    assert sorted(pushed) == ["README.md", CONFIG, WEIGHTS]
    card = ModelCard(pushed["README.md"].decode())
    assert (card.data.library_name, card.data.license) == ("crt-wsss", "apache-2.0")
    assert 'crt.create_model("hf-hub:acme/new", pretrained=True)' in card.text
    model = create("hf-hub:acme/new")
    assert torch.equal(model.cam(photo, ["cow"]), tiny.cam(photo, ["cow"]))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf-hub:a/b/c", ["'a/b/c'", "org/name@revision"]),
        ("hf-hub:", ["''", "org/name@revision"]),
        ("hf-hub:acme/ti ny", ["'acme/ti ny'", "org/name@revision"]),
        ("acme/tiny@v1", ["'hf-hub:acme/tiny@v1'", "'local-dir:acme/tiny@v1'"]),
        ("acme\\tiny", ["hf-hub:", "local-dir:"]),
    ],
)
def test_malformed_names(hub, create, name, parts):
    message = refusal(ValueError, create, name)
    assert not missing(parts, message)
    assert hub.seen == []
