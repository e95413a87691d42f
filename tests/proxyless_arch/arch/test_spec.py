"""Specs built in code: whatever breaks a rule is an InputError that names the field."""

from dataclasses import fields, replace

import numpy as np
import pytest

from proxyless_arch.arch.ops import Conv, Linear, MBConv, Zero
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Preprocessing
from proxyless_arch.base.errors import InputError
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
    ("build", "message"),
    [
        (lambda: BatchNorm(eps="x"), "eps: expected a number in (0, 1], got 'x'"),
        (lambda: BatchNorm(momentum=True), "momentum: expected a number in (0, 1], got True"),
        (lambda: Preprocessing(std=(1, 2, "x")), "std[2]: expected a number, got 'x'"),
        (lambda: Preprocessing(mean=("a", 1, 2)), "mean[0]: expected a number, got 'a'"),
        (lambda: Preprocessing(std=(1.0, 0.0, 1.0)), "std: expected numbers above 0, got 0.0"),
        (
            lambda: Conv(in_channels=3, out_channels=8, kernel_size=3.0),
            "kernel_size: expected 1, 3, 5 or 7, got 3.0",
        ),
        (lambda: replace(rich(), blocks=("x",)), "blocks[0]: expected a Block, got 'x'"),
        (lambda: replace(rich(), stem=Zero(channels=3)), "stem: expected a Conv, got Zero(channels=3)"),
        (
            lambda: replace(rich(), class_names=(1, 2, 3, 4, 5)),
            "class_names[0]: expected a string, got 1",
        ),
        (lambda: replace(rich(), name="\x1b[2Jmine"), r"name: expected one line of text, got '\x1b[2Jmine'"),
        (lambda: replace(rich(), name="a\nerror: b"), r"name: expected one line of text, got 'a\nerror: b'"),
    ],
)
def test_messages(build, message):
    with pytest.raises(InputError) as caught:
        build()
    assert str(caught.value) == message


def test_whole_numbers_are_numbers():
    assert Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)).std == (1, 1, 1)
    assert Linear(in_features=1, out_features=1, dropout_rate=0).dropout_rate == 0
    assert BatchNorm(eps=np.float64(1e-3)).eps == 1e-3
