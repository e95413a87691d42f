"""Specs built in code: whatever breaks a rule is an InputError that names the field."""

from dataclasses import fields, replace

import numpy as np
import pytest

from proxyless_arch.arch.ops import Conv, Linear, MBConv, Zero
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Preprocessing
from proxyless_arch.base.errors import InputError
from tests.errors import refused
from tests.proxyless_arch.nets import rich

VALID = {
    Conv: {"in_channels": 3, "out_channels": 8, "kernel_size": 3},
    MBConv: {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "expand_ratio": 6, "mid_channels": 40},
    Zero: {"channels": 8},
    Block: {"op": Zero(channels=8), "skip": True},
    Linear: {"in_features": 8, "out_features": 5},
    BatchNorm: {},
    Preprocessing: {},
    ArchSpec: {name: getattr(rich(), name) for name in ArchSpec.__dataclass_fields__},
}
STRANGE = ("x", None, True, 3.0, 3j, float("nan"), float("inf"), 10**400, [], (), (1, 2, "x"), {}, object(), b"3")
FIELDS = [(cls, name) for cls in VALID for name in (field.name for field in fields(cls))]
FINE = {
    "skip": [True],
    "mid_channels": [None],
    "class_names": [()],
    "name": ["x"],
    "blocks": [()],
    "assumed": ["x"],
    "feature_mix": [None],
    "exif": [None, True],
}
"""Strange values that are none for these fields."""


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_a_value_of_any_other_type_is_refused_by_name(cls, name):
    for value in STRANGE:
        if any(value is fine for fine in FINE.get(name, ())):
            continue
        with pytest.raises(InputError, match=rf"^{name}") as caught:
            cls(**VALID[cls] | {name: value})
        assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("build", "place", "values"),
    [
        (lambda: BatchNorm(eps="x"), "eps", ["(0, 1]", "'x'"]),
        (lambda: BatchNorm(momentum=True), "momentum", ["(0, 1]", True]),
        (lambda: Preprocessing(std=(1, 2, "x")), "std[2]", ["number", "'x'"]),
        (lambda: Preprocessing(mean=("a", 1, 2)), "mean[0]", ["number", "'a'"]),
        (lambda: Preprocessing(std=(1.0, 0.0, 1.0)), "std", ["above 0", 0.0]),
        (lambda: Conv(in_channels=3, out_channels=8, kernel_size=3.0), "kernel_size", [1, 3, 5, 7, 3.0]),
        (lambda: replace(rich(), blocks=("x",)), "blocks[0]", ["Block", "'x'"]),
        (lambda: replace(rich(), stem=Zero(channels=3)), "stem", ["Conv", "Zero(channels=3)"]),
        (lambda: replace(rich(), class_names=(1, 2, 3, 4, 5)), "class_names[0]", ["string", 1]),
        (lambda: replace(rich(), name="\x1b[2Jmine"), "name", ["one line", r"'\x1b[2Jmine'"]),
        (lambda: replace(rich(), name="a\nerror: b"), "name", ["one line", r"'a\nerror: b'"]),
    ],
)
def test_messages(build, place, values):
    with refused(place, *values):
        build()


def test_whole_numbers_are_numbers():
    assert Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)).std == (1, 1, 1)
    assert Linear(in_features=1, out_features=1, dropout_rate=0).dropout_rate == 0
    assert BatchNorm(eps=np.float64(1e-3)).eps == 1e-3
