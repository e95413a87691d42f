"""What people who come from timm try: num_classes=0, reset_classifier, in_chans, features_only, and their kin."""

import inspect

import pytest
import torch

import proxyless_nas as zoo
from proxyless_arch.arch.walk import stages, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.habits import in_our_words
from proxyless_nas.weights import load_named, load_weights, to_named
from tests.proxyless_arch.nets import random_tensors, rich, three_blocks
from tests.torch_zoo.test_network import lively

SPEC = three_blocks()
IMAGES = torch.randn(2, 3, 11, 13, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    return lively(zoo.build(SPEC, torch.Generator().manual_seed(1))).eval()


def test_the_parts_of_a_network_make_the_whole(net):
    features = net.forward_features(IMAGES)
    pooled = net.forward_head(features, pre_logits=True)
    assert torch.equal(pooled, features.mean((2, 3)))
    assert torch.equal(net.forward_head(features), net(IMAGES))
    assert torch.equal(net.get_classifier()(pooled), net(IMAGES))
    assert (net.num_features, net.num_classes) == (8, 5)


@pytest.mark.parametrize("pool", ["avg", ""])
def test_reset_classifier(net, pool):
    features, before = net.forward_features(IMAGES), to_named(net)
    net.reset_classifier(0, pool)
    assert torch.equal(net(IMAGES), features.mean((2, 3)) if pool else features)
    assert net.num_classes == 0
    assert isinstance(net.get_classifier(), torch.nn.Identity)
    assert not any(name.startswith("classifier") for name in net.state_dict())
    net.reset_classifier(7)
    assert net(IMAGES).shape == (2, 7)
    assert (net.num_classes, net.spec.num_classes, net.spec.class_names) == (7, 7, ())
    assert torch.equal(net.get_classifier()(features.mean((2, 3))), net(IMAGES))
    after = to_named(net)
    assert all((after[name] == before[name]).all() for name in before if not name.startswith("classifier"))
    with pytest.raises(InputError, match=r"^global_pool"):
        net.reset_classifier(0, "max")
    with pytest.raises(InputError, match=r"out_features|num_classes"):
        net.reset_classifier(-1)


def test_a_released_network_without_classes():
    torch.manual_seed(0)
    net = zoo.proxyless_cpu(num_classes=0).eval()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 1432) == (1, net.num_features)
    assert zoo.proxyless_cpu(num_classes=0, global_pool="")(torch.zeros(1, 3, 64, 64)).shape == (1, 1432, 2, 2)
    assert zoo.proxyless_cpu(include_top=False)(torch.zeros(1, 3, 64, 64)).shape == (1, 1432, 2, 2)


@pytest.mark.parametrize("spec", [three_blocks(), rich()], ids=lambda spec: spec.name)
def test_features_only(spec):
    net = lively(zoo.build(spec)).eval()
    backbone = zoo.FeatureNet(net)
    image = torch.randn(1, 3, 64, 64)
    maps = backbone(image)
    info = backbone.feature_info
    assert [one.shape[1] for one in maps] == info.channels()
    assert [64 // one.shape[-1] for one in maps] == info.reduction() == sorted(set(info.reduction()))
    x = net.first_conv(image)
    every = {"first_conv": x}
    for index, block in enumerate(net.blocks):
        x = every[f"blocks.{index}"] = block(x)
    for name, found in zip(info.module_name(), maps, strict=True):
        assert torch.equal(found, every[name])
    (last,) = zoo.FeatureNet(net, out_indices=(-1,))(image)
    assert torch.equal(last, maps[-1])
    assert torch.equal(last, x)
    with pytest.raises(InputError, match=r"^out_indices"):
        zoo.FeatureNet(net, out_indices=(len(maps),))


def test_features_of_a_released_network():
    backbone = zoo.proxyless_mobile(features_only=True, out_indices=(1, 2, 4)).eval()
    assert backbone.feature_info.reduction() == [4, 8, 32]
    assert backbone.feature_info.channels() == [32, 40, 320]
    assert [tuple(one.shape) for one in backbone(torch.zeros(1, 3, 32, 32))] == [
        (1, 32, 8, 8),
        (1, 40, 4, 4),
        (1, 320, 1, 1),
    ]


def test_stages_end_where_the_size_changes():
    spec = zoo.proxyless_gpu().spec
    calls = {call.name: call for call in walk(spec, 224)}
    for stage in stages(spec):
        assert calls[stage.name].out_hwc == (224 // stage.reduction, 224 // stage.reduction, stage.channels)


@pytest.mark.parametrize("n_channels", [1, 2, 4, 6])
def test_in_chans(n_channels, tmp_path):
    """A grey image gives what it gives in RGB; so does one in six channels, each colour twice."""
    spec = zoo.proxyless_cpu().spec
    tensors = random_tensors(spec)
    whole = zoo.build(spec)
    load_named(whole, spec, tensors)
    torch.save({"state_dict": {n: torch.from_numpy(a) for n, a in tensors.items()}}, tmp_path / "net.pth")
    net = zoo.proxyless_cpu(pretrained=tmp_path / "net.pth", in_chans=n_channels)
    grey = torch.randn(1, 1, 32, 32)
    found = net.first_conv.conv(grey.expand(-1, n_channels, -1, -1))
    if n_channels in (1, 6):
        assert torch.allclose(found, whole.first_conv.conv(grey.expand(-1, 3, -1, -1)), atol=1e-4)
    assert found.shape[1] == spec.stem.out_channels
    assert net.default_cfg["input_size"] == (n_channels, 224, 224)
    assert net.spec.stem.in_channels == (1 if n_channels == 1 else 3)
    other = {name: array for name, array in to_named(net).items() if name != "first_conv.conv.weight"}
    assert all((array == tensors[name]).all() for name, array in other.items())


def test_default_cfg(net):
    how = SPEC.preprocessing
    assert net.default_cfg == net.pretrained_cfg
    assert net.default_cfg["mean"] == how.mean
    assert net.default_cfg["input_size"] == (3, how.resolution, how.resolution)
    assert net.default_cfg["crop_pct"] == how.resolution / how.resize
    assert net.default_cfg["pool_size"] == tuple(net.forward_features(torch.zeros(1, 3, 11, 11)).shape[2:])
    for place, kind in (("first_conv", torch.nn.Conv2d), ("classifier", torch.nn.Linear)):
        assert isinstance(net.get_submodule(net.default_cfg[place]), kind)


@pytest.mark.parametrize("name", ["proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14"])
def test_a_function_says_what_it_takes(name):
    function = getattr(zoo, name)
    assert function.__name__ == name
    arguments = list(inspect.signature(function).parameters)
    assert arguments[:4] == ["pretrained", "num_classes", "dropout_rate", "include_top"]
    assert {"in_chans", "features_only"} <= set(arguments)
    assert "num_classes" in function.__doc__
    with pytest.raises(TypeError):
        function(num_clases=3)


@pytest.mark.parametrize("name", ["drop_rate", "dropout"])
def test_the_dropout_of_others_is_ours(name):
    given = {"progress": False, "scriptable": True, "drop_path_rate": 0.0, "checkpoint_path": "", "weights": None}
    assert zoo.proxyless_cpu(**{name: 0.3}, **given).spec.classifier.dropout_rate == 0.3
    with pytest.raises(InputError, match=rf"^{name}: given twice"):
        zoo.proxyless_cpu(**{name: 0.3}, dropout_rate=0.2)


@pytest.mark.parametrize("name", ["checkpoint_path", "weights"])
def test_a_checkpoint_by_other_names(name, tmp_path):
    tensors = random_tensors(zoo.proxyless_cpu().spec)
    torch.save({n: torch.from_numpy(a) for n, a in tensors.items()}, tmp_path / "net.pth")
    found = to_named(zoo.proxyless_cpu(**{name: tmp_path / "net.pth"}))
    assert all((found[key] == array).all() for key, array in tensors.items())
    with pytest.raises(InputError, match="no such file"):
        zoo.proxyless_cpu(**{name: str(tmp_path / "none.pth")})


@pytest.mark.parametrize(
    ("name", "value"),
    [("drop_path_rate", 0.2), ("bn_eps", 1e-5), ("pretrained_cfg", {"mean": (0, 0, 0)}), ("output_stride", 16),
     ("act_layer", torch.nn.ReLU), ("width_mult", 0.5), ("global_pool", "max"), ("global_pool", "")],
)  # fmt: skip
def test_what_has_no_meaning_here_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"^{name}: expected .*, got"):
        zoo.proxyless_cpu(**{name: value})


def test_the_published_weights_by_the_words_of_others():
    words = {"DEFAULT": True, "IMAGENET1K_V1": True, "imagenet": True, "file.pth": "file.pth"}
    for word, wanted in words.items():
        assert in_our_words({"weights": word}, ["pretrained"]) == {"pretrained": wanted}
    assert in_our_words({"weights": "imagenet"}, ["pretrained", "weights"]) == {"weights": "imagenet"}  # Keras has both
    with pytest.raises(TypeError, match=r"num_clases.*num_classes"):
        in_our_words({"num_clases": 3}, ["num_classes"])


def test_a_network_without_feature_mix(tmp_path):
    from dataclasses import replace

    spec = replace(SPEC, feature_mix=None, classifier=replace(SPEC.classifier, in_features=6))
    net = lively(zoo.build(spec)).eval()
    x = net.first_conv(IMAGES)
    for block in net.blocks:
        x = block(x)
    assert torch.equal(net(IMAGES), net.classifier(x.mean((2, 3))))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert torch.equal(load_weights(spec, tmp_path / "net.pth").eval()(IMAGES), net(IMAGES))
